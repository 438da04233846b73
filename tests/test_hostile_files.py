"""Files made to do harm are refused by name: no code is run and no memory taken."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from written_files import archive_file, model_file, reseal, shard_file, state_meta

from rdgeodiff.checkpoint import load_model
from rdgeodiff.data import arrays as arrays_module
from rdgeodiff.model_file import CheckpointError
from rdgeodiff.nn.graph_field import GraphFieldNetwork


@pytest.mark.parametrize(
    "network", [{"width": 2_000_000}, {"node_width": -1}, {"radial": 10**30}, {"layers": None}]
)
def test_a_network_larger_than_its_weights_takes_no_memory(tmp_path, network, monkeypatch):
    devices = set()
    build = GraphFieldNetwork.__init__

    def watch(self, config):
        devices.add(torch.empty(0).device.type)
        build(self, config)

    description = model_file(tmp_path)
    info = json.loads(description.read_text())
    reseal(description, network={**info["network"], **network})
    monkeypatch.setattr(GraphFieldNetwork, "__init__", watch)
    with pytest.raises(CheckpointError, match="fuzzed"):
        load_model(description)
    assert devices <= {"meta"}


@pytest.mark.parametrize("change", ["renamed", "missing", "transposed"])
def test_tensors_must_be_those_of_the_network(tmp_path, change):
    description = model_file(tmp_path)
    weights = description.with_suffix(".safetensors")
    tensors = load_file(weights)
    name = next(k for k, v in tensors.items() if v.ndim == 2 and v.shape[0] != v.shape[1])
    tensor = tensors.pop(name)
    if change != "missing":
        tensors[name + "_" * (change == "renamed")] = tensor.T.contiguous()
    save_file(tensors, weights)
    reseal(description)
    with pytest.raises(CheckpointError, match="fuzzed"):
        load_model(description)


def test_json_nested_without_end(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="deep"):
        load_model(tmp_path / "deep.json")
    reader = state_meta(tmp_path)
    assert reader.check(b"[" * 200_000) and reader.check(b"5")


def _npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _header(text: str, declared: int | None = None) -> bytes:
    body = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", declared or len(body)) + body


HOSTILE = {
    "shape beyond memory": _header("{'descr':'<i2','fortran_order':False,'shape':(10**15,3)}"),
    "large shape": _header(f"{{'descr':'<i2','fortran_order':False,'shape':({2**50},3)}}"),
    "negative shape": _header("{'descr':'<i2','fortran_order':False,'shape':(-5,3)}"),
    "shape beyond integers": _header(f"{{'descr':'<i2','fortran_order':0,'shape':({10**40},)}}"),
    "code": _header("{'descr':__import__('os').abort(),'fortran_order':0,'shape':(1,)}"),
    "long header": _header("{}", 65_535),
    "nested header": _header("(" * 3000),
    "no array": b"just text",
    "object array": _header("{'descr':'|O','fortran_order':0,'shape':(1,)}") + b"cos\nabort\n(tR.",
    "structured": _npy(np.zeros(2, [("a", "i2"), ("b", "f8")])),
    "text": _npy(np.array(["a", "b"])),
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("make", [shard_file, archive_file], ids=["shard", "archive"])
def test_hostile_arrays_are_refused(tmp_path, make, content):
    reader = make(tmp_path)
    with zipfile.ZipFile(io.BytesIO(reader.whole)) as archive:
        members = {n.removesuffix(".npy"): archive.read(n) for n in archive.namelist()}
    for name in ("coords", "n_atoms"):
        path = _npz(tmp_path / "hostile.npz", **{**members, name: content})
        assert reader.check(path.read_bytes())


@pytest.mark.parametrize("make", [shard_file, archive_file], ids=["shard", "archive"])
def test_a_zip_bomb_is_not_unpacked(tmp_path, make, monkeypatch):
    reader = make(tmp_path)
    bomb = _npz(tmp_path / "bomb.npz", coords=_npy(np.zeros((3_000_000, 3), np.int16)))
    assert bomb.stat().st_size < 50_000
    monkeypatch.setattr(arrays_module, "ALWAYS_ALLOWED", 1_000_000)
    monkeypatch.setattr(np, "load", lambda *a, **k: pytest.fail("the bomb was opened"))
    assert reader.check(bomb.read_bytes())
