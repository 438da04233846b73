"""Each network under each objective: learn one molecule, draw it, convert it, export it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import embedded, mol_from, positions_of
from rdkit import Chem

from rdgeodiff import EmbedMoleculeDiffusion, EmbedMoleculesDiffusion
from rdgeodiff.architectures import ARCHITECTURES, EdgeScoreProcess, FieldProcess
from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.cli import main
from rdgeodiff.data.shards import Reference, write_shard
from rdgeodiff.diffusion.original_geodiff import OriginalSampling
from rdgeodiff.diffusion.schedule import Schedule
from rdgeodiff.model_file import Model
from rdgeodiff.nn.dual_encoder import DualEncoderConfig, DualEncoderEpsNetwork
from rdgeodiff.nn.graph_field import GraphFieldConfig
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.samples import SampleRequest
from rdgeodiff.sampling import Sampling
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.loop import Trainer

OURS, ORIGINAL = "GraphFieldNetwork", "DualEncoderEpsNetwork"
SIZES = {
    OURS: GraphFieldConfig(width=24, node_width=32, layers=2, radial=12),
    ORIGINAL: DualEncoderConfig(
        hidden_dim=24, num_convs=2, num_convs_local=2, smooth_conv=True, max_neighbors=None
    ),
}
RATES = {OURS: 1e-2, ORIGINAL: 5e-3}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def acid() -> Chem.Mol:
    """Formic acid, in which no two atoms are alike."""
    return embedded("OC=O")


def config_of(folder: Path, architecture: str, objective: str, steps: int) -> TrainConfig:
    shard = folder / "one.npz"
    write_shard(shard, [Reference(featurize(acid()), positions_of(acid()))])
    return TrainConfig(
        shards={str(shard): 1.0},
        validation=[str(shard)],
        architecture=architecture,
        objective=objective,
        network=SIZES[architecture],
        learning_rate=RATES[architecture],
        warmup=10,
        steps=steps,
        decay=steps // 2,
        ema=0.98,
        pair_budget=2000,
        clip=1.0 if architecture == OURS else 10.0,
    )


def drawn(model: Model, sampler: str = "", steps: int = 0, count: int = 8) -> list[np.ndarray]:
    """Positions of formic acid, as the pipeline draws them."""
    requests = [SampleRequest(featurize(acid()), 0, k, 0, 5) for k in range(count)]
    found: list[np.ndarray] = []
    Pipeline(model, sampler=sampler, steps=steps).sample(
        requests, on_result=lambda _, x: found.append(x)
    )
    return found


def distance_errors(positions: list[np.ndarray]) -> list[float]:
    """Root mean square difference of all distances from the right ones in Å, sorted."""

    def distances(x: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x[:, None] - x[None], axis=-1)

    right = distances(positions_of(acid())[0])
    # A network that has learnt nothing may also run away; the pipeline then reports the cause.
    return sorted(
        np.inf if isinstance(x, str) else float(np.sqrt(((distances(x) - right) ** 2).mean()))
        for x in positions
    )


# Training


@pytest.mark.parametrize(
    ("architecture", "objective", "steps", "bound"),
    [
        (OURS, "aligned", 200, 0.1),
        (OURS, "chain_rule", 200, 0.35),
        (ORIGINAL, "aligned", 300, 0.8),
        (ORIGINAL, "chain_rule", 300, 0.6),
    ],
)
def test_learns_one_molecule_and_draws_it(architecture, objective, steps, bound, tmp_path):
    """Some seconds of training, then half of the samples have all distances within `bound` Å."""
    config = config_of(tmp_path, architecture, objective, steps)
    trainer = Trainer(config, tmp_path / "run", compiled=False, bf16=False)
    process = FieldProcess() if architecture == OURS else EdgeScoreProcess(objective=objective)
    # A network that learnt superposed targets denoises by itself.
    sampling = Sampling() if objective == "aligned" else ARCHITECTURES[architecture].sampling
    model = Model("one", trainer.network.eval(), sampling, {}, process)
    assert distance_errors(drawn(model))[3] > 1.5 * bound  # before it has learnt anything
    trainer.network.train()
    trainer.run(progress=False)
    trainer._load(trainer.average)
    trainer.network.eval()
    errors = distance_errors(drawn(model))
    assert errors[3] < bound, errors


@pytest.mark.parametrize("objective", ["aligned", "chain_rule"])
@pytest.mark.parametrize("architecture", [OURS, ORIGINAL])
def test_runs_resume_and_export(architecture, objective, tmp_path, capsys):
    config = config_of(tmp_path, architecture, objective, 4)
    whole = Trainer(config, tmp_path / "whole", compiled=False, bf16=False)
    whole.run(progress=False)
    for _ in range(2):  # the first half, then the rest from the folder
        part = Trainer(config, tmp_path / "parts", compiled=False, bf16=False)
        part.mixture.stream = functools.partial(part.mixture.stream, ahead=1)
        part.run(max_seconds=0.0 if part.step == 0 else float("inf"), progress=False)
    assert (part.step, part.samples) == (4, whole.samples)
    for name, value in whole.network.named_parameters():
        assert torch.equal(value, dict(part.network.named_parameters())[name])
    assert TrainConfig.load(tmp_path / "whole" / "config.json") == config

    assert main(["export", str(tmp_path / "whole"), str(tmp_path / "model")]) == 0
    model = load_model(tmp_path / "model.json")
    assert type(model.network).__name__ == architecture == model.info["architecture"]
    assert model.info["objective"] == model.info["training"]["objective"] == objective
    by_distances = architecture == ORIGINAL and objective == "chain_rule"
    assert model.sampling.sampler == ("staged" if by_distances else Sampling().sampler)
    for name, value in model.network.named_parameters():
        assert torch.equal(value, whole.average[name])
    assert all(x.shape == (5, 3) for x in drawn(model, steps=3, count=2))


def test_configurations_of_before_still_load():
    old = json.loads(TrainConfig({"a.npz": 1.0}, network=SIZES[OURS]).to_json())
    for key in ("architecture", "objective"):
        del old[key]
    config = TrainConfig.from_json(json.dumps(old))
    assert (config.architecture, config.objective) == (OURS, "aligned")
    assert config.network == SIZES[OURS]
    del old["network"]
    assert TrainConfig.from_json(json.dumps(old)).network == GraphFieldConfig()


def test_configurations_that_cannot_be():
    good = {"shards": {"a.npz": 1.0}, "architecture": ORIGINAL}
    assert TrainConfig.from_json(json.dumps(good)).network == DualEncoderConfig()
    for change, error, message in (
        ({"architecture": "SchNet"}, ValueError, "unknown architecture 'SchNet'"),
        ({"objective": "denoise"}, ValueError, "unknown objective 'denoise'"),
        ({"network": {"layers": 3}}, TypeError, "layers"),
        ({"heads": 3}, TypeError, "heads"),
    ):
        with pytest.raises(error, match=message):
            TrainConfig.from_json(json.dumps({**good, **change}))
    with pytest.raises(ValueError, match="takes a GraphFieldConfig"):
        TrainConfig({"a.npz": 1.0}, network=DualEncoderConfig())


def test_the_config_in_benchmarks_can_be_loaded():
    path = Path(__file__).parent.parent / "benchmarks" / "train_original.json"
    config = TrainConfig.load(path)
    assert (config.architecture, config.objective) == (ORIGINAL, "chain_rule")
    DualEncoderEpsNetwork(config.network)


# Conversion


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


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


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
