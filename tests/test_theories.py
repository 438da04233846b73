"""Levels of theory in one run: a network is of its own and knows others by an offset."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers import embedded, positions_of
from training_cases import config_of, same_values, trainer_of, two_shards, values_of

from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.cli import main
from rdgeodiff.data.shards import Reference, write_shard
from rdgeodiff.nn.graph_field import GraphFieldConfig
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.losses import loss_of


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[Path, Path]:
    return two_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def config(shards) -> TrainConfig:
    return config_of(shards)


@pytest.fixture
def two_theories(tmp_path) -> TrainConfig:
    """Two shards of one molecule, of which the second, of another theory, has it larger."""
    mol = embedded("CCO", 1)
    paths = [str(tmp_path / name) for name in ("own.npz", "other.npz")]
    for path, size in zip(paths, (1.0, 1.2), strict=True):
        write_shard(path, [Reference(featurize(mol), size * positions_of(mol))])
    return TrainConfig(
        shards=dict.fromkeys(paths, 1.0),
        network=GraphFieldConfig(width=16, node_width=16, layers=2, radial=8),
        learning_rate=1e-2,
        warmup=2,
        pair_budget=1600,
        log_mean=-1.0,
        log_std=0.1,
        theories={paths[1]: "MMFF94s"},
    )


def test_a_network_is_of_its_own_theory_and_knows_others_by_their_offset(two_theories, tmp_path):
    trainer = trainer_of(two_theories, tmp_path / "run")
    for k in range(150):
        trainer._train_step(trainer.mixture.batch(k))
    batch = trainer.mixture.batch(1000)
    other = batch.shard == 1
    assert other.any() and not other.all()
    with torch.no_grad():
        told = trainer._batch_loss(batch, trainer.theories(batch.shard))
        untold = trainer._batch_loss(batch, None)
        mistold = trainer._batch_loss(batch, trainer.theories(torch.ones_like(batch.shard)))
    assert torch.equal(told[~other], untold[~other])
    assert told[other].mean() < 0.8 * untold[other].mean()
    assert mistold[~other].mean() > 1.25 * untold[~other].mean()


def test_offsets_of_theories_are_continued_and_go_with_the_weights(two_theories, tmp_path):
    first = trainer_of(dataclasses.replace(two_theories, steps=3), tmp_path / "run")
    first.run(progress=False)
    offsets = first.theories.offsets.detach()
    assert offsets.abs().max() > 0
    again = trainer_of(two_theories, tmp_path / "run")
    assert torch.equal(again.theories.offsets, offsets)
    assert same_values(values_of(again), values_of(first))
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "model")]) == 0
    model = load_model(tmp_path / "model.json")
    assert model.info["training"]["theories"] == {"other.npz": "MMFF94s"}
    assert dict(model.network.named_parameters()).keys() == first.average.keys()
    further = dataclasses.replace(two_theories, start=str(tmp_path / "model.json"))
    assert torch.equal(trainer_of(further, tmp_path / "further").theories.offsets, offsets)
    renamed = dataclasses.replace(further, theories=dict.fromkeys(further.theories, "GFN-FF"))
    assert not trainer_of(renamed, tmp_path / "renamed").theories.offsets.any()


def test_a_model_may_be_led_away_from_a_theory(two_theories, tmp_path):
    run = trainer_of(dataclasses.replace(two_theories, steps=20), tmp_path / "run")
    run.run(progress=False)
    call = ["export", str(tmp_path / "run"), str(tmp_path / "model")]
    assert main([*call, "--away", "MMFF94s=0.5"]) == 0
    model = load_model(tmp_path / "model.json")
    assert model.info["training"]["away"] == {"MMFF94s": 0.5}
    run._load(run.average)
    batch = run.mixture.batch(0)
    with torch.no_grad():
        offset = -0.5 * run.theories.offsets.expand(len(batch.sigma), -1)
        expected = run._batch_loss(batch, offset)
        plain = run._batch_loss(batch, None)
        run._loss = loss_of(model.network, two_theories, bf16=False)
        found = run._batch_loss(batch, None)
        assert torch.allclose(found, expected, rtol=1e-4)
        # Trained further, it is still told of the other theory what it was told before.
        known = model.process.theories["MMFF94s"].expand(len(batch.sigma), -1)
        told = run._batch_loss(batch, known)
        run._loss = loss_of(run.network, two_theories, bf16=False)
        before = run._batch_loss(batch, run.theories.offsets.expand(len(batch.sigma), -1))
        assert torch.allclose(told, before, rtol=1e-4)
    assert not torch.allclose(plain, expected, rtol=1e-3)


def test_what_a_run_does_not_know_is_not_led_away_from(two_theories, config, tmp_path, capsys):
    for name, settings, known in (("a", two_theories, "MMFF94s"), ("b", config, "none")):
        trainer_of(dataclasses.replace(settings, steps=1), tmp_path / name).run(progress=False)
        call = ["export", str(tmp_path / name), str(tmp_path / "model")]
        assert main([*call, "--away", "GFN-FF=0.5"]) == 2
        assert f"levels of theory of this run: {known}" in capsys.readouterr().err
    both = [str(tmp_path / name) for name in "ab"]
    assert main(["export", *both, str(tmp_path / "model")]) == 2
    assert "not of the same levels of theory" in capsys.readouterr().err


def test_theories_are_for_networks_that_learn_from_conformers(two_theories):
    with pytest.raises(ValueError, match="theories"):
        dataclasses.replace(two_theories, teacher="small", levels=[12.0, 1.0])
    with pytest.raises(ValueError, match="theories"):
        dataclasses.replace(two_theories, architecture="DualEncoderEpsNetwork", network=None)
