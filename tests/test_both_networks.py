"""Each network under each objective: learn one molecule, draw it, resume, export it."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from formic_acid import ORIGINAL, OURS, acid, drawn
from helpers import positions_of

from rdgeodiff.architectures import ARCHITECTURES, EdgeScoreProcess, FieldProcess
from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.cli import main
from rdgeodiff.data.shards import Reference, write_shard
from rdgeodiff.model_file import Model
from rdgeodiff.nn.dual_encoder import DualEncoderConfig, DualEncoderEpsNetwork
from rdgeodiff.nn.graph_field import GraphFieldConfig
from rdgeodiff.sampling import Sampling
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.loop import Trainer

SIZES = {
    OURS: GraphFieldConfig(width=24, node_width=32, layers=2, radial=12),
    ORIGINAL: DualEncoderConfig(
        hidden_dim=24, num_convs=2, num_convs_local=2, smooth_conv=True, max_neighbors=None
    ),
}
RATES = {OURS: 1e-2, ORIGINAL: 5e-3}

pytestmark = pytest.mark.usefixtures("one_thread")


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
