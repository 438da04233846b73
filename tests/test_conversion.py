"""A checkpoint of the original code is converted, draws as its network does, and runs nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from formic_acid import ORIGINAL, drawn
from helpers import Calls, mol_from

from rdgeodiff import EmbedMoleculeDiffusion, EmbedMoleculesDiffusion
from rdgeodiff.architectures import EdgeScoreProcess
from rdgeodiff.checkpoint import load_model
from rdgeodiff.cli import main
from rdgeodiff.diffusion.original_geodiff import OriginalSampling
from rdgeodiff.diffusion.schedule import Schedule
from rdgeodiff.model_file import Model
from rdgeodiff.nn.dual_encoder import DualEncoderConfig, DualEncoderEpsNetwork
from rdgeodiff.sampling import Sampling

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def original_file(tmp_path, monkeypatch) -> tuple[Path, DualEncoderEpsNetwork]:
    """A checkpoint as the original training script writes it, with random weights in it."""
    torch.manual_seed(3)
    network = DualEncoderEpsNetwork(DualEncoderConfig(16, 2, 2)).eval()
    state = OrderedDict(network.state_dict())
    groups = {"edge_encoder": "0", "encoder": "1", "grad_dist_mlp": "2"}
    for key, value in list(state.items()):
        for branch in ("global", "local"):
            for part, number in groups.items():
                name = (
                    part.replace("grad_", f"grad_{branch}_")
                    if "grad" in part
                    else (f"{part}_{branch}")
                )
                if key.startswith(name + "."):
                    state[f"model_{branch}.{number}{key.removeprefix(name)}"] = value
    tables = EdgeScoreProcess().tables
    state |= {"betas": tables.betas, "alphas": tables.alpha_bars}

    module = types.ModuleType("easydict")
    easydict = type("EasyDict", (dict,), {"__module__": "easydict"})
    monkeypatch.setattr(module, "EasyDict", easydict, raising=False)
    monkeypatch.setitem(sys.modules, "easydict", module)
    model = easydict(
        type="diffusion", network="dualenc", hidden_dim=16, num_convs=2, num_convs_local=2,
        cutoff=10.0, mlp_act="relu", beta_schedule="sigmoid", beta_start=1e-7, beta_end=2e-3,
        num_diffusion_timesteps=5000, edge_order=3, edge_encoder="mlp", smooth_conv=False,
    )  # fmt: skip
    path = tmp_path / "30000.pt"
    content = {"config": easydict(model=model, train=easydict(seed=2021)), "model": state}
    torch.save({**content, "iteration": 30000, "avg_val_loss": torch.tensor(1.5)}, path)
    return path, network


def test_convert_then_embed(original_file, tmp_path, capsys):
    """From the file on disk to the molecule: the same positions as from the network in memory."""
    path, network = original_file
    target = tmp_path / "models" / "drugs"
    assert main(["convert", str(path), str(target)]) == 0
    said = capsys.readouterr().out
    assert "drugs.json" in said and "drugs.safetensors" in said and "5000 steps" in said
    info = json.loads(target.with_suffix(".json").read_text())
    assert info["architecture"] == ORIGINAL
    assert info["network"] == dataclasses.asdict(network.config)
    assert info["schedule"]["steps"] == Schedule().steps
    assert len(info["sha256"]) == len(info["source"]["sha256"]) == 64

    model = load_model(target.with_suffix(".json"))
    memory = Model("memory", network, model.sampling, {}, EdgeScoreProcess())
    for sampler, steps in (("", 0), ("ancestral", 30), ("langevin", 40), ("heun", 10)):
        ours, expected = (drawn(m, sampler, steps, 3) for m in (model, memory))
        assert len(ours) == 3
        for a, b in zip(ours, expected, strict=True):
            assert a == b if isinstance(b, str) else np.array_equal(a, b)

    mol = mol_from("C[C@H](O)F")
    name = str(target.with_suffix(".json"))
    ids = EmbedMoleculeDiffusion(mol, 2, randomSeed=1, model=name, maxIterations=1)
    assert len(ids) == mol.GetNumConformers() <= 2
    result = EmbedMoleculesDiffusion(
        [mol], 3, randomSeed=1, model=name, maxIterations=2, sampler="langevin", steps=50
    )[0]
    assert result.error is None and result.raw_samples == 3
    assert len(result.conf_ids) + sum(result.failures.values()) == 3


def test_langevin_tries_again_with_the_local_field_clipped():
    """As the original does where positions stop being finite, and only for those samples."""
    torch.manual_seed(0)
    network = DualEncoderEpsNetwork(DualEncoderConfig(16, 2, 2)).eval()

    def samples(clip_local: float | None, sampler: str = "langevin") -> list:
        process = EdgeScoreProcess(settings=OriginalSampling(clip_local=clip_local))
        model = Model("memory", network, Sampling(), {}, process)
        return drawn(model, sampler, 40, 3)

    def scale(factor: float) -> None:
        last = network.grad_local_dist_mlp.layers[-1]
        with torch.no_grad():
            last.weight *= factor
            last.bias *= factor

    scale(10.0)  # now and then beyond what is clipped, and still finite
    calm, clipped = samples(None), samples(20.0)
    assert all(isinstance(x, np.ndarray) for x in calm)
    scale(1e12)
    wild, held = samples(None), samples(20.0)
    for a, b in zip(wild, held, strict=True):
        assert isinstance(a, np.ndarray) and np.array_equal(a, b)
    # Where nothing breaks there is no second try.
    assert not all(np.array_equal(a, b) for a, b in zip(calm, clipped, strict=True))
    assert EdgeScoreProcess().cautious("ancestral") is None
    assert EdgeScoreProcess(settings=OriginalSampling(clip_local=5.0)).cautious("langevin") is None


def test_convert_spares_what_is_there(original_file, tmp_path, capsys):
    path, _ = original_file
    call = ["convert", str(path), str(tmp_path / "model.safetensors")]
    assert main(call) == 0
    before = (tmp_path / "model.json").read_text()
    assert main(call) == 2
    assert "model.safetensors is there already" in capsys.readouterr().err
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert main([*call, "--force"]) == 0
    assert (tmp_path / "model.json").read_text() == before
    load_model(tmp_path / "model.json")


def test_convert_refuses_by_name_and_runs_nothing(tmp_path, capsys):
    victim = tmp_path / "victim"
    path = tmp_path / "poison.pt"
    torch.save({"config": {}, "model": Calls(os.mkdir, str(victim))}, path)
    assert main(["convert", str(path), str(tmp_path / "model")]) == 2
    captured = capsys.readouterr()
    assert "poison.pt: asks for posix.mkdir" in captured.err or "nt.mkdir" in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert not victim.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["poison.pt"]
    for content in (b"", b"PK", b"\x80\x02}."):
        path.write_bytes(content)
        assert main(["convert", str(path), str(tmp_path / "model")]) == 2
        said = capsys.readouterr().err
        assert said.startswith("rdgeodiff: ") and "poison.pt" in said and said.count("\n") == 1
