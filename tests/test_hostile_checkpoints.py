"""Original checkpoints made to do harm, or damaged: refused by name, and nothing in them is run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from helpers import Calls
from original_checkpoints import CHECKPOINT, rewritten

from rdgeodiff.convert import convert_checkpoint
from rdgeodiff.model_file import CheckpointError


def with_pickle(target: Path, program: bytes) -> Path:
    """The checkpoint with another data.pkl."""
    return rewritten(CHECKPOINT, target, lambda n, c: program if n == "data.pkl" else c)


def test_poisoned_pickle_is_refused_and_not_run(tmp_path):
    victim = tmp_path / "victim"
    poison = {"config": {}, "model": Calls(os.mkdir, str(victim))}
    path = with_pickle(tmp_path / "poison.pt", pickle.dumps(poison, protocol=2))
    with pytest.raises(CheckpointError, match=r"poison\.pt: asks for (posix|nt)\.mkdir"):
        convert_checkpoint(path)
    assert not victim.exists()
    # The same program in an ordinary unpickler does run.
    pickle.loads(pickle.dumps(poison, protocol=2))
    assert victim.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch", "Tensor"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch._utils", "_rebuild_tensor_v3"),
        ("torch", "FloatStorage.__init__"),
        ("collections", "OrderedDict.fromkeys"),
        ("easydict", "EasyDict.update"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("rdgeodiff.convert", "convert_checkpoint"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_other_name_is_refused(module, name, protocol, tmp_path):
    if protocol == 2:
        program = b"\x80\x02c" + f"{module}\n{name}\n.".encode()
    else:
        parts = [b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name)]
        program = b"\x80\x04" + parts[0] + parts[1] + b"\x93."
    path = with_pickle(tmp_path / "other.pt", program)
    with pytest.raises(CheckpointError, match=f"asks for {module}.{name}"):
        convert_checkpoint(path)


def test_nothing_is_left_behind_by_a_file(tmp_path):
    """BUILD can set attributes of whatever the unpickler hands out; the next file sees none."""
    for module, name in (
        ("torch._utils", "_rebuild_tensor_v2"),
        ("collections", "OrderedDict"),
        ("torch", "FloatStorage"),
    ):
        state = "}(X\x04\x00\x00\x00evilK\x01u"
        for build in (f"{state}b", f"N{state}\x86b"):
            program = f"\x80\x02c{module}\n{name}\n{build}.".encode("latin1")
            with pytest.raises(CheckpointError):
                convert_checkpoint(with_pickle(tmp_path / "build.pt", program))
    assert not hasattr(OrderedDict, "evil")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "evil")
    convert_checkpoint(CHECKPOINT)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_file_is_named(part, tmp_path):
    whole = CHECKPOINT.read_bytes()
    path = tmp_path / "half.pt"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(CheckpointError, match=r"half\.pt: not a whole checkpoint"):
        convert_checkpoint(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt: not a whole"):
        convert_checkpoint(tmp_path / "none.pt")
    path = tmp_path / "foreign.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")
    with pytest.raises(CheckpointError, match=r"foreign\.pt: .*no data\.pkl"):
        convert_checkpoint(path)
    for content in (
        {"config": {"model": {}}},
        {"model": {}},
        [1, 2],
        {},
        {"config": 1, "model": {}},
    ):
        path = with_pickle(tmp_path / "foreign.pt", pickle.dumps(content, protocol=2))
        with pytest.raises(CheckpointError, match=r"foreign\.pt: "):
            convert_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, c: None if n == "data/0" else c, "data/0 is missing"),
        (lambda n, c: c[:-4] if n == "data/0" else c, "'betas'.*promised"),
        (lambda n, c: b"big" if n == "byteorder" else c, "little-endian"),
        (lambda n, c: c[:-200] if n == "data.pkl" else c, "damaged pickle"),
        (lambda n, c: b"\x80\x02}r\xff\xff\xff\xff." if n == "data.pkl" else c, "memo index"),
        (lambda n, c: b"" if n == "data.pkl" else c, "damaged pickle"),
    ],
)
def test_damaged_members_are_named(change, message, tmp_path):
    path = rewritten(CHECKPOINT, tmp_path / "damaged.pt", change)
    with pytest.raises(CheckpointError, match=rf"damaged\.pt: .*{message}"):
        convert_checkpoint(path)


def test_flipped_bits_are_noticed(tmp_path):
    content = bytearray(CHECKPOINT.read_bytes())
    with zipfile.ZipFile(CHECKPOINT) as archive:
        start = archive.getinfo("20/data/0").header_offset
    content[start + 2000] ^= 1
    path = tmp_path / "flipped.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"flipped\.pt: data/0 is missing or damaged"):
        convert_checkpoint(path)


def test_tensors_may_not_reach_beyond_their_storage(tmp_path):
    """Sizes and strides come from the file: each is checked before it is used."""
    for size, stride, offset in (
        ((10**9,), (0,), 0),
        ((5000,), (2,), 0),
        ((5000,), (1,), 1),
        ((5000,), (-1,), 0),
        ((-1, -1), (1, 1), 0),
        ("abc", (1,), 0),
    ):
        path = with_pickle(tmp_path / "reach.pt", tensor_program(size, stride, offset))
        with pytest.raises(CheckpointError, match=r"reach\.pt: tensor 'betas'"):
            convert_checkpoint(path)


def tensor_program(size: object, stride: object, offset: int) -> bytes:
    """A checkpoint whose only tensor has this geometry, written as torch writes it."""

    class Writer(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return value.call[1] if isinstance(value, Calls) and not value.call[0] else None

    storage = Calls(None, "storage", torch.FloatStorage, "0", "cpu", 5000)
    rebuild = Calls(
        torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict()
    )
    stream = io.BytesIO()
    Writer(stream, protocol=2).dump({"config": {"model": {}}, "model": {"betas": rebuild}})
    return stream.getvalue()


def test_the_writer_of_bad_tensors_can_write_a_good_one(tmp_path):
    path = with_pickle(tmp_path / "good.pt", tensor_program((5000,), (1,), 0))
    with pytest.raises(CheckpointError, match="no noise tables"):  # "alphas" is not there
        convert_checkpoint(path)
