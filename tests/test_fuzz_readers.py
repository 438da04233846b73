"""Damaged files: each reader gives its own exception, which names the file, or reads.

A reader may accept a changed file only where the change makes no difference to what is read, or
where somebody sealed it anew. Nothing is ever run, and nothing else than the one type is raised.
"""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_files import (
    Reader,
    archive_file,
    description_file,
    model_file,
    reseal,
    shard_file,
    state_meta,
    state_piece,
    weights_file,
)

from rdgeodiff.checkpoint import load_model
from rdgeodiff.data.conformer_sets import ArchiveError, read_archive
from rdgeodiff.data.shards import ShardError, read_shard
from rdgeodiff.model_file import CheckpointError

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def damage(draw, whole: bytes) -> bytes:
    """`whole` with bytes flipped, cut off, put in, or overwritten at the head or the tail."""
    data = bytearray(whole)
    kind = draw(st.sampled_from(["flip", "cut", "insert", "head", "tail", "swap", "lengths"]))
    at = draw(st.integers(0, len(data) - 1))
    some = draw(st.binary(min_size=1, max_size=24))
    if kind == "flip":
        data[at] ^= draw(st.integers(1, 255))
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[at:at] = some
    elif kind == "head":
        data[: len(some)] = some
    elif kind == "tail":
        data[-len(some) :] = some
    elif kind == "swap":
        data = data[at:] + data[:at]
    else:
        huge = draw(st.sampled_from([2**31, 2**32 - 1, 2**53, 2**63, 2**64 - 1]))
        data[:8] = struct.pack("<Q", huge)
    return bytes(data)


READERS = {
    "shard": shard_file,
    "archive": archive_file,
    "weights": weights_file,
    "description": description_file,
    "state piece": state_piece,
    "state meta": state_meta,
}


@pytest.fixture(params=READERS.values(), ids=READERS.keys())
def reader(request, tmp_path) -> Reader:
    return request.param(tmp_path)


def test_damaged_files_are_refused_or_make_no_difference(reader):
    refused = []

    @QUICK
    @given(data=st.data())
    def run(data):
        refused.append(reader.check(data.draw(damage(reader.whole))))

    run()
    assert sum(refused) > len(refused) // 4


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_truncated_files_are_named(reader, share):
    assert reader.check(reader.whole[: int(share * len(reader.whole))])


@QUICK
@given(junk=st.binary(max_size=300))
def test_random_files_are_refused(tmp_path_factory, junk):
    folder = tmp_path_factory.mktemp("junk")
    for name in ("shard.npz", "archive.npz", "model.json"):
        (folder / name).write_bytes(junk)
    with pytest.raises(ShardError, match=r"shard\.npz"):
        read_shard(folder / "shard.npz")
    with pytest.raises(ArchiveError, match=r"archive\.npz"):
        list(read_archive(folder / "archive.npz"))
    with pytest.raises(CheckpointError, match=r"model\.json"):
        load_model(folder / "model.json")


def test_resealed_weights_are_refused_or_read(tmp_path):
    """The seal fits, as it does when somebody means it: the safetensors parser must hold."""
    description = model_file(tmp_path)
    weights = description.with_suffix(".safetensors")
    whole = weights.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    original = description.read_text()

    @QUICK
    @given(data=st.data())
    def run(data):
        head = data.draw(damage(whole[:header]))
        weights.write_bytes(head + whole[header:])
        reseal(description)
        try:
            load_model(description)
        except CheckpointError as error:
            assert "fuzzed" in str(error)
        finally:
            description.write_text(original)

    run()


def test_any_configuration_is_refused_or_read(tmp_path):
    description = model_file(tmp_path)
    original = description.read_text()
    network = json.loads(original)["network"]

    @QUICK
    @given(data=st.data())
    def run(data):
        name = data.draw(st.sampled_from(["network", "sampling", "architecture", "format", "key"]))
        value = data.draw(JSON_VALUES)
        if name == "key":
            name, value = "network", {**network, data.draw(st.sampled_from([*network])): value}
        reseal(description, **{name: value})
        try:
            load_model(description)
        except CheckpointError as error:
            assert "fuzzed" in str(error)
        finally:
            description.write_text(original)

    run()


def test_a_shard_of_any_small_numbers_is_refused_or_read(tmp_path):
    """Sealed anew, with numbers that contradict each other."""
    reader = shard_file(tmp_path)
    with np.load(reader.path) as stored:
        arrays = dict(stored)
    target = tmp_path / "odd.npz"

    @QUICK
    @given(data=st.data())
    def run(data):
        name = data.draw(st.sampled_from([n for n in arrays if n != "format"]))
        array = arrays[name].copy()
        if array.size:
            at = data.draw(st.integers(0, array.size - 1))
            limits = np.iinfo(array.dtype)
            array.flat[at] = data.draw(st.integers(int(limits.min), int(limits.max)))
        np.savez(target, **{**arrays, name: array})
        try:
            shard = read_shard(target)
            for k in range(len(shard)):
                shard.graph(k)
                shard.conformers(k)
        except ShardError as error:
            assert "odd" in str(error)

    run()
