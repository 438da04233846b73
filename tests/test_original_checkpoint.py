"""Checkpoints of the original code: read, converted, and checked whenever they are opened."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from original_checkpoints import CHECKPOINT, rewritten
from original_fixtures import FIXTURES

from rdgeodiff.checkpoint import load_model
from rdgeodiff.convert import convert_checkpoint, write_converted
from rdgeodiff.diffusion.original_geodiff import NoiseTables
from rdgeodiff.diffusion.schedule import Schedule
from rdgeodiff.model_file import CheckpointError
from rdgeodiff.nn.atom_graphs import AtomGraphs

PUBLIC = json.loads((FIXTURES / "tiny_checkpoint.json").read_text())


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
