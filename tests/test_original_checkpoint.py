"""Checkpoints of the original code: read without running anything in them, then converted."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rdgeodiff.checkpoint import load_model
from rdgeodiff.convert import convert_checkpoint, write_converted
from rdgeodiff.diffusion.original_geodiff import NoiseTables
from rdgeodiff.diffusion.schedule import Schedule
from rdgeodiff.model_file import CheckpointError
from rdgeodiff.nn.atom_graphs import AtomGraphs

FIXTURES = Path(__file__).parent / "fixtures" / "geodiff_official"
CHECKPOINT = FIXTURES / "tiny_checkpoint.pt"
PUBLIC = json.loads((FIXTURES / "tiny_checkpoint.json").read_text())


def rewritten(path: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Copy an archive; `change` sees each member's last name and gives its content, None: drop."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = change(entry.filename.partition("/")[2], old.read(entry))
            if content is not None:
                new.writestr(entry.filename, content)
    return target


def with_pickle(target: Path, program: bytes) -> Path:
    """The checkpoint with another data.pkl."""
    return rewritten(CHECKPOINT, target, lambda n, c: program if n == "data.pkl" else c)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


# Reading


@pytest.mark.parametrize("name", ["tiny_checkpoint.pt", "tiny_checkpoint_cuda.pt"])
def test_reads_configuration_and_tensors(name):
    config, tensors = convert_checkpoint(FIXTURES / name)
    assert config == PUBLIC["config"]
    assert all(type(part) is dict for part in (config, config["model"], config["train"]))
    assert not [k for k in tensors if k.startswith(("model_global", "model_local"))]
    # Two tables, and one name for each tensor of the 106 entries.
    assert len(tensors) == 2 + (PUBLIC["n_model_entries"] - 2) // 2
    for value in tensors.values():
        assert type(value) is torch.Tensor and value.dtype == torch.float32
        assert value.device.type == "cpu" and value.is_contiguous()
        assert bool(value.isfinite().all())
    expected = NoiseTables.of(Schedule())
    torch.testing.assert_close(tensors["betas"], expected.betas, rtol=2e-7, atol=0)
    torch.testing.assert_close(tensors["alphas"], expected.alpha_bars, rtol=2e-7, atol=0)


def test_a_file_from_a_gpu_holds_the_same():
    config, tensors = convert_checkpoint(CHECKPOINT)
    config_cuda, tensors_cuda = convert_checkpoint(FIXTURES / "tiny_checkpoint_cuda.pt")
    assert config == config_cuda
    assert tensors.keys() == tensors_cuda.keys()
    assert all(torch.equal(tensors[k], tensors_cuda[k]) for k in tensors)


@pytest.mark.parametrize("name", ["tiny_checkpoint.pt", "tiny_checkpoint_cuda.pt"])
def test_converted_model_gives_the_public_outputs(name, tmp_path):
    description = write_converted(FIXTURES / name, tmp_path / "models" / "tiny")
    model = load_model(description)
    assert not model.network.training
    assert model.info["original_config"] == PUBLIC["config"]
    assert model.network.config.smooth_conv and model.network.config.max_neighbors == 32
    with np.load(FIXTURES / "tiny_checkpoint_forward.npz", allow_pickle=False) as data:
        for molecule in ("ethanol", "aspirin", "imatinib"):

            def stored(key: str, molecule: str = molecule, data=data) -> torch.Tensor:
                value = torch.from_numpy(data[f"{molecule}.{key}"])
                return value if value.is_floating_point() else value.long()

            atoms = stored("atom_type")
            graphs = AtomGraphs.from_bonds(
                atoms, torch.zeros_like(atoms), stored("bond_edge_index"), stored("bond_edge_type")
            )
            scores = model.network(graphs, stored("pos"))
            assert torch.equal(scores.edges.index, stored("edge_index"))
            assert torch.equal(scores.edges.type, stored("edge_type"))
            for ours, key in (
                (scores.of_global, "edge_inv_global"),
                (scores.of_local, "edge_inv_local"),
                (scores.global_field(), "node_eq_global"),
                (scores.local_field(), "node_eq_local"),
            ):
                scale = float(stored(key).abs().max())
                torch.testing.assert_close(ours, stored(key), rtol=0, atol=1e-5 * scale)


# Refusing


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


# Converted files


def test_files_beside_each_other(tmp_path):
    description = write_converted(CHECKPOINT, tmp_path / "tiny")
    info = json.loads(description.read_text())
    assert info["architecture"] == "DualEncoderEpsNetwork"
    assert info["source"]["file"] == CHECKPOINT.name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.json", "tiny.safetensors"]
    assert info["schedule"]["steps"] == 5000
    assert info["schedule"]["beta_end"] == PUBLIC["config"]["model"]["beta_end"]
    assert info["parameters"] == sum(
        v.numel() for k, v in load_model(description).network.state_dict().items()
    )


def test_altered_files_are_refused(tmp_path):
    description = write_converted(CHECKPOINT, tmp_path / "tiny")
    good = description.read_text()
    for old, new, message in (
        ('"hidden_dim": 32', '"hidden_dim": 33', "does not describe its weights"),
        ('"cutoff"', '"cut"', "does not describe its weights"),
        ("DualEncoderEpsNetwork", "GraphFieldNetwork", "does not describe its weights"),
        ("DualEncoderEpsNetwork", "Other", "unknown architecture 'Other'"),
        ('"clip_local"', '"clip_all"', "does not describe its weights"),
        ('"sha256": "', '"sha256": "0', "SHA-256"),
        ("{", "", "cannot be read"),
    ):
        description.write_text(good.replace(old, new, 1))
        with pytest.raises(CheckpointError, match=message):
            load_model(description)
    description.write_text(good)
    weights = description.with_suffix(".safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_model(description)
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(description)


def test_weights_of_another_size_are_not_converted(tmp_path):
    path = rewritten(
        CHECKPOINT,
        tmp_path / "wrong.pt",
        lambda n, c: c.replace(b"num_convs_localq\x0cK\x02", b"num_convs_localq\x0cK\x03"),
    )
    assert convert_checkpoint(path)[0]["model"]["num_convs_local"] == 3
    with pytest.raises(CheckpointError, match=r"wrong\.pt: does not describe its tensors"):
        write_converted(path, tmp_path / "wrong")
    assert not (tmp_path / "wrong.safetensors").exists()
