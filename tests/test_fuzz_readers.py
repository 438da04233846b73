"""Damaged and hostile files: each reader gives its own exception, which names the file, or reads.

A reader may accept a changed file only where the change makes no difference to what is read, or
where somebody sealed it anew. Nothing is ever run, and nothing else than the one type is raised.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import embedded, positions_of, tiny_network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.data import arrays as arrays_module
from rdgeodiff.data.conformer_sets import ArchiveError, read_archive
from rdgeodiff.data.shards import Reference, ShardError, read_shard, write_shard
from rdgeodiff.model_file import CheckpointError, save_model
from rdgeodiff.nn.graph_field import GraphFieldNetwork
from rdgeodiff.training.state import StateError, load_state, save_state

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SMILES = ("C[C@H](F)Cl", "CO")
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


class Reader:
    """A kind of file: how to write it, how to read all of it, and what a refusal is called."""

    def __init__(
        self, path: Path, error: type[Exception], read: Callable[[], list[np.ndarray]]
    ) -> None:
        self.path, self.error, self.read = path, error, read
        self.whole = path.read_bytes()
        self.expected = read()

    def check(self, data: bytes) -> bool:
        """True if refused; the file is whole again afterwards."""
        self.path.write_bytes(data)
        try:
            found = self.read()
        except self.error as error:
            # A description that names its pieces wrongly is noticed at the pieces.
            names = {self.path.name, self.path.stem, self.path.parent.name}
            assert any(name in str(error) for name in names)
            return True
        finally:
            self.path.write_bytes(self.whole)
        assert len(found) == len(self.expected)
        assert all(np.array_equal(a, b) for a, b in zip(found, self.expected, strict=True))
        return False


def _shard(folder: Path) -> Reader:
    mols = [embedded(s, 2) for s in SMILES]
    path = folder / "shard.npz"
    write_shard(path, [Reference(featurize(m), positions_of(m)) for m in mols])

    def read() -> list[np.ndarray]:
        shard = read_shard(path)
        found = [shard.conformers(k) for k in range(len(shard))]
        for k in range(len(shard)):
            found += [shard.graph(k).node_codes, shard.graph(k).pair_codes, shard.graph(k).centers]
        return found

    return Reader(path, ShardError, read)


def _archive(folder: Path) -> Reader:
    mols = [embedded(s, 2) for s in SMILES]
    path = folder / "archive.npz"
    np.savez_compressed(
        path,
        smiles=np.array(SMILES),
        n_atoms=np.array([m.GetNumAtoms() for m in mols]),
        n_confs=np.array([2, 2]),
        coords=np.concatenate([positions_of(m).reshape(-1, 3) * 1000 for m in mols]).astype("i2"),
    )
    return Reader(path, ArchiveError, lambda: [m.positions for m in read_archive(path)])


def _model(folder: Path) -> Path:
    return save_model(folder / "fuzzed", tiny_network(), {})


def _tensors(description: Path) -> list[np.ndarray]:
    return [v.numpy() for v in load_model(description).network.state_dict().values()]


def _weights(folder: Path) -> Reader:
    description = _model(folder)
    weights = description.with_suffix(".safetensors")
    return Reader(weights, CheckpointError, lambda: _tensors(description))


def _description(folder: Path) -> Reader:
    description = _model(folder)
    return Reader(description, CheckpointError, lambda: _tensors(description))


def _state_piece(folder: Path, name: str = "state-000.safetensors") -> Reader:
    state = folder / "state"
    save_state(state, {"x": torch.arange(40.0), "y": torch.ones(2, 3)}, {"step": 5})

    def read() -> list[np.ndarray]:
        stored = load_state(state)
        assert stored is not None
        return [stored[0][k].numpy() for k in sorted(stored[0])]

    return Reader(state / name, StateError, read)


def _state_meta(folder: Path) -> Reader:
    return _state_piece(folder, "meta.json")


READERS = {
    "shard": _shard,
    "archive": _archive,
    "weights": _weights,
    "description": _description,
    "state piece": _state_piece,
    "state meta": _state_meta,
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


def _reseal(description: Path, **changes: object) -> None:
    weights = description.with_suffix(".safetensors").read_bytes()
    info = json.loads(description.read_text())
    info |= {"sha256": hashlib.sha256(weights).hexdigest(), **changes}
    description.write_text(json.dumps(info))


def test_resealed_weights_are_refused_or_read(tmp_path):
    """The seal fits, as it does when somebody means it: the safetensors parser must hold."""
    description = _model(tmp_path)
    weights = description.with_suffix(".safetensors")
    whole = weights.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    original = description.read_text()

    @QUICK
    @given(data=st.data())
    def run(data):
        head = data.draw(damage(whole[:header]))
        weights.write_bytes(head + whole[header:])
        _reseal(description)
        try:
            load_model(description)
        except CheckpointError as error:
            assert "fuzzed" in str(error)
        finally:
            description.write_text(original)

    run()


def test_any_configuration_is_refused_or_read(tmp_path):
    description = _model(tmp_path)
    original = description.read_text()
    network = json.loads(original)["network"]

    @QUICK
    @given(data=st.data())
    def run(data):
        name = data.draw(st.sampled_from(["network", "sampling", "architecture", "format", "key"]))
        value = data.draw(JSON_VALUES)
        if name == "key":
            name, value = "network", {**network, data.draw(st.sampled_from([*network])): value}
        _reseal(description, **{name: value})
        try:
            load_model(description)
        except CheckpointError as error:
            assert "fuzzed" in str(error)
        finally:
            description.write_text(original)

    run()


@pytest.mark.parametrize(
    "network", [{"width": 2_000_000}, {"node_width": -1}, {"radial": 10**30}, {"layers": None}]
)
def test_a_network_larger_than_its_weights_takes_no_memory(tmp_path, network, monkeypatch):
    devices = set()
    build = GraphFieldNetwork.__init__

    def watch(self, config):
        devices.add(torch.empty(0).device.type)
        build(self, config)

    description = _model(tmp_path)
    info = json.loads(description.read_text())
    _reseal(description, network={**info["network"], **network})
    monkeypatch.setattr(GraphFieldNetwork, "__init__", watch)
    with pytest.raises(CheckpointError, match="fuzzed"):
        load_model(description)
    assert devices <= {"meta"}


@pytest.mark.parametrize("change", ["renamed", "missing", "transposed"])
def test_tensors_must_be_those_of_the_network(tmp_path, change):
    description = _model(tmp_path)
    weights = description.with_suffix(".safetensors")
    tensors = load_file(weights)
    name = next(k for k, v in tensors.items() if v.ndim == 2 and v.shape[0] != v.shape[1])
    tensor = tensors.pop(name)
    if change != "missing":
        tensors[name + "_" * (change == "renamed")] = tensor.T.contiguous()
    save_file(tensors, weights)
    _reseal(description)
    with pytest.raises(CheckpointError, match="fuzzed"):
        load_model(description)


def test_json_nested_without_end(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="deep"):
        load_model(tmp_path / "deep.json")
    reader = _state_meta(tmp_path)
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
@pytest.mark.parametrize("make", [_shard, _archive], ids=["shard", "archive"])
def test_hostile_arrays_are_refused(tmp_path, make, content):
    reader = make(tmp_path)
    with zipfile.ZipFile(io.BytesIO(reader.whole)) as archive:
        members = {n.removesuffix(".npy"): archive.read(n) for n in archive.namelist()}
    for name in ("coords", "n_atoms"):
        path = _npz(tmp_path / "hostile.npz", **{**members, name: content})
        assert reader.check(path.read_bytes())


@pytest.mark.parametrize("make", [_shard, _archive], ids=["shard", "archive"])
def test_a_zip_bomb_is_not_unpacked(tmp_path, make, monkeypatch):
    reader = make(tmp_path)
    bomb = _npz(tmp_path / "bomb.npz", coords=_npy(np.zeros((3_000_000, 3), np.int16)))
    assert bomb.stat().st_size < 50_000
    monkeypatch.setattr(arrays_module, "ALWAYS_ALLOWED", 1_000_000)
    monkeypatch.setattr(np, "load", lambda *a, **k: pytest.fail("the bomb was opened"))
    assert reader.check(bomb.read_bytes())


def test_a_shard_of_any_small_numbers_is_refused_or_read(tmp_path):
    """Sealed anew, with numbers that contradict each other."""
    reader = _shard(tmp_path)
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
