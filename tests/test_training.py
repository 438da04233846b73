"""Training: the same run whether interrupted or not, and nothing lost on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import config_of, same_values, trainer_of, two_shards, values_of

from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.state import load_state, save_state


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[Path, Path]:
    return two_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def config(shards) -> TrainConfig:
    return config_of(shards)


def test_an_interrupted_run_equals_an_uninterrupted_one(config, tmp_path):
    whole = trainer_of(config, tmp_path / "whole")
    fresh = values_of(whole)
    whole.run(progress=False)
    assert whole.step == 6
    assert not same_values(values_of(whole), fresh)

    first = trainer_of(dataclasses.replace(config, steps=3), tmp_path / "parts")
    first.run(progress=False)
    assert first.step == 3
    second = trainer_of(config, tmp_path / "parts")
    assert second.step == 3
    assert same_values(values_of(second), values_of(first))
    second.run(progress=False)
    assert same_values(values_of(second), values_of(whole))
    assert (second.step, second.samples, second.skipped) == (6, whole.samples, 0)


def test_a_run_told_to_stop_stops_after_the_step_and_continues(config, tmp_path):
    whole = trainer_of(config, tmp_path / "whole")
    whole.run(progress=False)
    for step in range(1, 7):
        part = trainer_of(config, tmp_path / "parts")
        part.run(max_seconds=0.0, progress=False)
        assert part.step == step
    assert same_values(values_of(part), values_of(whole))


def test_ctrl_c_saves_finished_steps(config, tmp_path, monkeypatch):
    trainer = trainer_of(config, tmp_path)
    plain = trainer._train_step

    def interrupted(batch):
        if trainer.step == 2:
            raise KeyboardInterrupt
        return plain(batch)

    monkeypatch.setattr(trainer, "_train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(progress=False)
    resumed = trainer_of(config, tmp_path)
    assert resumed.step == 2
    assert same_values(values_of(resumed), values_of(trainer))


def test_training_lowers_the_loss_of_one_batch(config, tmp_path):
    trainer = trainer_of(dataclasses.replace(config, learning_rate=3e-3), tmp_path)
    batch = trainer.mixture.batch(0)
    losses = [trainer._train_step(batch).item() for _ in range(25)]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_folder_holds_the_configuration_and_the_validation(config, shards, tmp_path):
    config = dataclasses.replace(config, steps=1, validation=[str(shards[1])])
    trainer = trainer_of(config, tmp_path / "run")
    before = values_of(trainer)
    losses = trainer.validate()
    assert same_values(values_of(trainer), before)  # the averaged weights were only lent
    assert trainer.validate() == losses
    trainer.run(progress=False)
    assert TrainConfig.load(tmp_path / "run" / "config.json") == config
    entries = [json.loads(t) for t in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["step"] == 1
    assert all(np.isfinite(v) for v in entries[-1]["losses"].values())


def test_a_non_finite_gradient_is_skipped_and_counted(config, tmp_path):
    trainer = trainer_of(config, tmp_path)
    plain = trainer._loss
    trainer._train_step(trainer.mixture.batch(0))
    weights = {k: v.detach().clone() for k, v in trainer.network.named_parameters()}
    for poison in (float("nan"), float("inf")):
        trainer._loss = lambda *a, poison=poison: plain(*a) * poison
        trainer._train_step(trainer.mixture.batch(1))
    assert trainer.skipped == 2
    assert trainer.step == 3
    assert all(torch.equal(v, weights[k]) for k, v in trainer.network.named_parameters())
    trainer._loss = plain
    trainer._train_step(trainer.mixture.batch(2))
    assert trainer.skipped == 2
    assert all(torch.isfinite(v).all() for v in values_of(trainer).values())
    assert any(not torch.equal(v, weights[k]) for k, v in trainer.network.named_parameters())
    trainer.save()
    assert trainer_of(config, tmp_path).skipped == 2


def test_configuration_round_trip_and_unknown_names(config):
    assert TrainConfig.from_json(config.to_json()) == config
    with pytest.raises(TypeError, match="stepz"):
        TrainConfig.from_json('{"shards": {}, "stepz": 5}')
    with pytest.raises(TypeError, match="wdith"):
        TrainConfig.from_json('{"shards": {}, "network": {"wdith": 5}}')


def test_learning_rate(config):
    config = dataclasses.replace(config, warmup=10, steps=100, decay=20)
    rates = [config.rate(k) for k in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0
    assert dataclasses.replace(config, decay=0).rate(10**6) == 1.0


def test_state_comes_in_small_pieces(tmp_path):
    tensors = {f"t{k}": torch.full((1_000_000,), float(k)) for k in range(9)}  # 4 MB each
    tensors |= {"flag": torch.tensor(3), "view": torch.arange(12).view(3, 4).T}
    save_state(tmp_path / "state", tensors, {"step": 5})
    files = list((tmp_path / "state").iterdir())
    assert len(files) == 4
    assert all(f.stat().st_size < 16 * 2**20 for f in files)
    found, meta = load_state(tmp_path / "state")
    assert meta == {"step": 5}
    assert same_values(found, tensors)
    save_state(tmp_path / "state", {"one": torch.zeros(1)}, {"step": 6})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state"]
    assert list(load_state(tmp_path / "state")[0]) == ["one"]  # no piece of the older state


def test_interrupted_saves_are_recovered(tmp_path):
    state = tmp_path / "state"
    assert load_state(state) is None
    save_state(state, {"x": torch.ones(1)}, {"step": 1})

    # Killed while writing: the unfinished state is ignored.
    shutil.copytree(state, tmp_path / "state.partial")
    (tmp_path / "state.partial" / "meta.json").unlink()
    assert load_state(state)[1] == {"step": 1}

    # Killed between the two renames: the older state comes back.
    os.replace(state, tmp_path / "state.old")
    assert load_state(state)[1] == {"step": 1}

    # Killed before the older state was removed: the newer one counts.
    shutil.copytree(state, tmp_path / "state.old")
    (state / "meta.json").write_text('{"step": 2}')
    assert load_state(state)[1] == {"step": 2}

    # The next save clears all that away.
    save_state(state, {"x": torch.ones(1)}, {"step": 3})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state"]
    assert load_state(state)[1] == {"step": 3}


def test_killed_in_its_very_first_save(config, tmp_path):
    (tmp_path / "state.partial").mkdir()
    assert trainer_of(config, tmp_path).step == 0


def test_a_run_that_is_told_to_end_saves_first(config, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(dataclasses.replace(config, steps=1_000_000).to_json())
    run = tmp_path / "run"
    call = ["train", "--config", str(file), "--out", str(run), "--no-compile", "--no-bf16"]
    child = subprocess.Popen(
        [sys.executable, "-m", "rdgeodiff", *call, "--threads", "1", "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
    )
    log = run / "log.jsonl"
    try:
        deadline = time.monotonic() + 120
        while not log.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        child.terminate()
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130 and "interrupted" in said
    state = load_state(run / "state")
    assert state is not None and state[1]["step"] >= 50


IMPORT_ALONE = """
import sys

for name in ("rdkit", "scipy", "pandas", "torch_cluster"):
    sys.modules[name] = None  # importing it raises ImportError

import rdgeodiff
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.loop import Trainer

config = TrainConfig.load(sys.argv[1])
trainer = Trainer(config, sys.argv[2], compiled=False, bf16=False)
trainer.run(progress=False)
assert trainer.step == config.steps
assert not any(name.startswith("rdkit.") for name in sys.modules)
"""


def test_training_runs_without_rdkit(config, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(dataclasses.replace(config, steps=1).to_json())
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALONE, str(file), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    assert load_state(tmp_path / "run" / "state")[1]["step"] == 1
