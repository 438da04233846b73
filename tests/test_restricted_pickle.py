"""Pickles of arrays and molecules are read without running anything that they name."""

from __future__ import annotations

import os
import pickle
import types

import numpy as np
import pytest
import torch
from helpers import Calls
from rdkit import Chem

from rdgeodiff.data.geom_splits import read_split
from rdgeodiff.data.restricted_pickle import (
    Inert,
    PickleError,
    PickleRefusedError,
    array_of,
    load_npy,
    load_restricted,
)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numbers_survive_every_protocol(protocol):
    content = {
        "tensor": torch.arange(12.0).reshape(3, 4).t()[1:],
        "whole": torch.arange(3),
        "array": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "swapped": np.arange(3, dtype=">i4"),
        "scalar": np.float64(2.5),
        "plain": [1, 2, 3],
    }
    found = load_restricted(pickle.dumps(content, protocol=protocol))
    for name, value in content.items():
        np.testing.assert_array_equal(array_of(found[name]), np.asarray(value))


@pytest.mark.parametrize(
    "call",
    [
        Calls(eval, "open('{victim}', 'w')"),
        Calls(os.mkdir, "{victim}"),
        Calls(getattr, torch, "load"),
        Calls(torch.load, "{victim}"),
        Calls(np.load, "{victim}"),
        Calls(types.SimpleNamespace),
    ],
)
def test_other_names_are_refused_and_nothing_is_run(call, tmp_path):
    victim = tmp_path / "victim"
    function, arguments = call.call
    filled = [a.replace("{victim}", str(victim)) if isinstance(a, str) else a for a in arguments]
    if function is getattr:
        filled = ["text", "upper"]
    program = pickle.dumps({"conformers": Calls(function, *filled)}, protocol=3)
    with pytest.raises(PickleRefusedError, match=r"asks for [\w.]+, which"):
        load_restricted(program)
    assert not victim.exists()


def test_a_tensor_cannot_carry_code(tmp_path):
    victim = tmp_path / "victim"
    stored = pickle.dumps(Calls(os.mkdir, str(victim)), protocol=2)
    load = torch.storage._load_from_bytes
    program = pickle.dumps(
        Calls(torch._utils._rebuild_tensor_v2, Calls(load, stored), 0, (1,), (1,), False, {})
    )
    with pytest.raises(PickleError, match="cannot be read"):
        array_of(load_restricted(program))
    assert not victim.exists()


def test_nothing_of_a_file_is_built_or_left_behind():
    program = pickle.dumps(Chem.MolFromSmiles("CO"), protocol=3)
    first, second = load_restricted(program), load_restricted(program)
    assert isinstance(first, Inert) and type(first) is not type(second)
    for damaged in (b"", program[:-10], b"\x80\x03r\xff\xff\xff\xffN.", b"garbage"):
        with pytest.raises(PickleError, match="damaged"):
            load_restricted(damaged)
    for wrong in ("text", first, {"a": 1}, Calls(np.ndarray, 1)):
        with pytest.raises(PickleError):
            array_of(wrong)


def test_an_index_file_cannot_carry_code(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "split0.npy"
    poison = np.empty(3, object)
    poison[:] = [Calls(os.mkdir, str(victim))] * 3
    np.save(path, poison, allow_pickle=True)
    with pytest.raises(PickleRefusedError, match=r"split0\.npy: asks for"):
        read_split(path, "test", ["a"])
    assert not victim.exists()
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(PickleError, match="not an array"):
        load_npy(path)
