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
from helpers import embedded, positions_of

from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.cli import main
from rdgeodiff.data.shards import Reference, read_shard, write_shard
from rdgeodiff.nn.graph_field import GraphFieldConfig
from rdgeodiff.training.batches import PAD_STEP, Mixture
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.loop import Trainer
from rdgeodiff.training.losses import loss_of
from rdgeodiff.training.state import load_state, save_state

SMALL = ("C", "CO", "C[C@H](F)Cl", "C=C", "CC#N", "C/C=C/F", "O=CO", "CCO")
LARGE = ("CCCCC", "C1CCCC1O", "c1ccccc1C")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("shards")
    paths = []
    for name, smiles in (("small", SMALL), ("large", LARGE)):
        mols = [embedded(s, 2) for s in smiles]
        references = [Reference(featurize(m), positions_of(m)) for m in mols]
        paths.append(folder / f"{name}.npz")
        write_shard(paths[-1], references)
    return paths[0], paths[1]


@pytest.fixture
def config(shards) -> TrainConfig:
    return TrainConfig(
        shards={str(shards[0]): 2.0, str(shards[1]): 1.0},
        network=GraphFieldConfig(width=16, node_width=16, layers=2, radial=8),
        warmup=2,
        steps=6,
        pair_budget=1000,
        seed=3,
    )


def _trainer(config: TrainConfig, folder: Path) -> Trainer:
    return Trainer(config, folder, compiled=False, bf16=False)


def _values(trainer: Trainer) -> dict[str, torch.Tensor]:
    values = {f"model.{k}": v.detach().clone() for k, v in trainer.network.named_parameters()}
    return values | {f"average.{k}": v.clone() for k, v in trainer.average.items()}


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_an_interrupted_run_equals_an_uninterrupted_one(config, tmp_path):
    whole = _trainer(config, tmp_path / "whole")
    fresh = _values(whole)
    whole.run(progress=False)
    assert whole.step == 6
    assert not _same(_values(whole), fresh)

    first = _trainer(dataclasses.replace(config, steps=3), tmp_path / "parts")
    first.run(progress=False)
    assert first.step == 3
    second = _trainer(config, tmp_path / "parts")
    assert second.step == 3
    assert _same(_values(second), _values(first))
    second.run(progress=False)
    assert _same(_values(second), _values(whole))
    assert (second.step, second.samples, second.skipped) == (6, whole.samples, 0)


def test_a_run_told_to_stop_stops_after_the_step_and_continues(config, tmp_path):
    whole = _trainer(config, tmp_path / "whole")
    whole.run(progress=False)
    for step in range(1, 7):
        part = _trainer(config, tmp_path / "parts")
        part.run(max_seconds=0.0, progress=False)
        assert part.step == step
    assert _same(_values(part), _values(whole))


def test_ctrl_c_saves_finished_steps(config, tmp_path, monkeypatch):
    trainer = _trainer(config, tmp_path)
    plain = trainer._train_step

    def interrupted(batch):
        if trainer.step == 2:
            raise KeyboardInterrupt
        return plain(batch)

    monkeypatch.setattr(trainer, "_train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(progress=False)
    resumed = _trainer(config, tmp_path)
    assert resumed.step == 2
    assert _same(_values(resumed), _values(trainer))


def test_training_lowers_the_loss_of_one_batch(config, tmp_path):
    trainer = _trainer(dataclasses.replace(config, learning_rate=3e-3), tmp_path)
    batch = trainer.mixture.batch(0)
    losses = [trainer._train_step(batch).item() for _ in range(25)]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_folder_holds_the_configuration_and_the_validation(config, shards, tmp_path):
    config = dataclasses.replace(config, steps=1, validation=[str(shards[1])])
    trainer = _trainer(config, tmp_path / "run")
    before = _values(trainer)
    losses = trainer.validate()
    assert _same(_values(trainer), before)  # the averaged weights were only lent
    assert trainer.validate() == losses
    trainer.run(progress=False)
    assert TrainConfig.load(tmp_path / "run" / "config.json") == config
    entries = [json.loads(t) for t in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["step"] == 1
    assert all(np.isfinite(v) for v in entries[-1]["losses"].values())


def test_a_non_finite_gradient_is_skipped_and_counted(config, tmp_path):
    trainer = _trainer(config, tmp_path)
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
    assert all(torch.isfinite(v).all() for v in _values(trainer).values())
    assert any(not torch.equal(v, weights[k]) for k, v in trainer.network.named_parameters())
    trainer.save()
    assert _trainer(config, tmp_path).skipped == 2


def _mixture(shards, weights=(2.0, 1.0), **settings) -> Mixture:
    settings = {"pair_budget": 2000, "seed": 5, **settings}
    return Mixture([read_shard(p) for p in shards], weights, **settings)


def _tensors(batch) -> list[torch.Tensor]:
    graphs = batch.graphs
    return [
        graphs.n_atoms, graphs.mask, graphs.node_codes, graphs.pair_codes, graphs.centers,
        graphs.parities, batch.clean, batch.noise, batch.sigma,
    ]  # fmt: skip


def _equal(a, b) -> bool:
    return all(
        x.shape == y.shape and torch.equal(x, y)
        for x, y in zip(_tensors(a), _tensors(b), strict=True)
    )


def test_batches_depend_on_seed_and_step_alone(shards):
    one, two = _mixture(shards), _mixture(shards)
    forward = [one.batch(k) for k in range(6)]
    torch.manual_seed(99)
    np.random.seed(99)
    backward = [two.batch(k) for k in reversed(range(6))][::-1]
    assert all(_equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not any(_equal(forward[0], b) for b in forward[1:])
    assert not _equal(forward[0], _mixture(shards, seed=6).batch(0))
    for start, stop, ahead in ((0, 6, 4), (2, 6, 1), (4, 5, 8), (3, 3, 2)):
        streamed = list(one.stream(start, stop, ahead))
        assert len(streamed) == stop - start
        assert all(_equal(a, b) for a, b in zip(streamed, forward[start:stop], strict=True))


def test_a_floor_keeps_a_shard_to_high_noise_and_leaves_the_others_alone(shards):
    plain, floored = _mixture(shards), _mixture(shards, floors=(0.0, 0.8))
    sizes = {int(n) for n in read_shard(shards[1]).n_atoms}
    seen = []
    for step in range(40):
        one, two = plain.batch(step), floored.batch(step)
        large = torch.tensor([int(n) in sizes for n in one.graphs.n_atoms])
        assert torch.equal(one.clean, two.clean)
        assert torch.equal(one.sigma[~large], two.sigma[~large])
        seen += two.sigma[large].tolist()
    assert len(seen) > 100
    assert 0.8 <= min(seen) < 0.9


def test_conformers_follow_boltzmann_at_the_temperature(tmp_path):
    mol = embedded("CCO", 3)
    energies = np.array([2.0, 0.0, 1.0])
    path = tmp_path / "one.npz"
    write_shard(path, [Reference(featurize(mol), positions_of(mol), energies)])
    stored = read_shard(path).conformers(0)
    n = stored.shape[1]
    for temperature, expected in ((0.8, np.exp(-energies / 0.8)), (0.0, np.ones(3))):
        mixture = _mixture([path], (1.0,), temperatures=[temperature])
        drawn = np.concatenate([mixture.batch(k).clean[:, :n].numpy() for k in range(100)])
        which = np.abs(drawn[:, None] - stored).max((2, 3)).argmin(1)
        found = np.bincount(which, minlength=3) / len(which)
        assert len(which) > 1000
        assert np.abs(found - expected / expected.sum()).max() < 0.04


def test_a_shard_may_have_a_temperature_of_its_own(config, tmp_path):
    shards = list(config.shards)
    own = dataclasses.replace(config, temperature=2.0, temperatures={shards[1]: 4.0})
    seen = []
    mixture = Mixture.__init__

    def recorded(self, *arguments, **settings):
        seen.append(settings["temperatures"])
        mixture(self, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mixture, "__init__", recorded)
        _trainer(own, tmp_path)
    assert seen == [[2.0, 4.0]]


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
    trainer = _trainer(two_theories, tmp_path / "run")
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
    first = _trainer(dataclasses.replace(two_theories, steps=3), tmp_path / "run")
    first.run(progress=False)
    offsets = first.theories.offsets.detach()
    assert offsets.abs().max() > 0
    again = _trainer(two_theories, tmp_path / "run")
    assert torch.equal(again.theories.offsets, offsets)
    assert _same(_values(again), _values(first))
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "model")]) == 0
    model = load_model(tmp_path / "model.json")
    assert model.info["training"]["theories"] == {"other.npz": "MMFF94s"}
    assert dict(model.network.named_parameters()).keys() == first.average.keys()
    further = dataclasses.replace(two_theories, start=str(tmp_path / "model.json"))
    assert torch.equal(_trainer(further, tmp_path / "further").theories.offsets, offsets)
    renamed = dataclasses.replace(further, theories=dict.fromkeys(further.theories, "GFN-FF"))
    assert not _trainer(renamed, tmp_path / "renamed").theories.offsets.any()


def test_a_model_may_be_led_away_from_a_theory(two_theories, tmp_path):
    run = _trainer(dataclasses.replace(two_theories, steps=20), tmp_path / "run")
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
        _trainer(dataclasses.replace(settings, steps=1), tmp_path / name).run(progress=False)
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


def test_settings_of_shards_that_mean_nothing_are_refused(config):
    for name in ("floors", "temperatures", "theories"):
        with pytest.raises(ValueError, match=f"{name} name"):
            dataclasses.replace(config, **{name: {"elsewhere.npz": 1.0}})
    with pytest.raises(ValueError, match="negative"):
        dataclasses.replace(config, temperature=-1.0)
    with pytest.raises(ValueError, match="negative"):
        dataclasses.replace(config, temperatures={next(iter(config.shards)): -1.0})


def test_batches_hold_what_the_shards_hold(shards):
    mixture = _mixture(shards)
    known = {}
    for path in shards:
        shard = read_shard(path)
        for k in range(len(shard)):
            key = shard.graph(k).node_codes.tobytes() + shard.graph(k).pair_codes.tobytes()
            known[key] = shard.conformers(k)
    for step in range(5):
        batch = mixture.batch(step)
        pad = batch.graphs.mask.shape[1]
        assert pad % PAD_STEP == 0
        assert len(batch.graphs) * pad**2 <= 2000
        assert (batch.clean[~batch.graphs.mask] == 0).all()
        assert (batch.sigma >= 0.002).all() and (batch.sigma <= 13.0).all()
        for k in range(len(batch.graphs)):
            n = int(batch.graphs.n_atoms[k])
            assert pad - PAD_STEP < n <= pad
            upper = np.triu_indices(n, 1)
            nodes = batch.graphs.node_codes[k, :n].numpy()
            pairs = batch.graphs.pair_codes[k].numpy()[upper]
            conformers = known[nodes.tobytes() + pairs.tobytes()]
            assert (conformers == batch.clean[k, :n].numpy()).all((1, 2)).any()


def test_shares_of_a_mixture(shards):
    """Shards get their share of the samples, molecules and conformers equal parts of that."""
    mixture = _mixture(shards, (3.0, 1.0), pair_budget=800)
    small = {read_shard(shards[0]).graph(k).node_codes.tobytes() for k in range(len(SMALL))}
    counts: dict[bytes, int] = {}
    for step in range(400):
        graphs = mixture.batch(step).graphs
        for k in range(len(graphs)):
            key = graphs.node_codes[k, : graphs.n_atoms[k]].numpy().tobytes()
            counts[key] = counts.get(key, 0) + 1
    total = sum(counts.values())
    share = sum(v for k, v in counts.items() if k in small) / total
    assert len(counts) == len(SMALL) + len(LARGE)
    assert share == pytest.approx(0.75, abs=0.04)
    for key, count in counts.items():
        expected = 0.75 / len(SMALL) if key in small else 0.25 / len(LARGE)
        assert count / total == pytest.approx(expected, rel=0.25)


def test_molecules_that_do_not_fit_are_counted(shards):
    sizes = np.concatenate([read_shard(p).n_atoms for p in shards])
    limit = int(np.median(sizes))
    mixture = _mixture(shards, max_atoms=limit)
    assert mixture.left_out == (sizes > limit).sum() > 0
    assert all(mixture.batch(k).graphs.n_atoms.max() <= limit for k in range(20))


@pytest.mark.parametrize("weights", [(), (1.0,), (1.0, 0.0), (1.0, -1.0)])
def test_mixtures_without_meaning_are_refused(shards, weights):
    with pytest.raises(ValueError, match="positive weight"):
        _mixture(shards, weights)


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
    assert _same(found, tensors)
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
    assert _trainer(config, tmp_path).step == 0


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
