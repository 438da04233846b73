"""Batches depend on seed and step alone, and hold what the shards hold in the shares asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import embedded, positions_of
from training_cases import LARGE, SMALL, config_of, trainer_of, two_shards

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.data.shards import Reference, read_shard, write_shard
from rdgeodiff.training.batches import PAD_STEP, Mixture
from rdgeodiff.training.config import TrainConfig


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[Path, Path]:
    return two_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def config(shards) -> TrainConfig:
    return config_of(shards)


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
        trainer_of(own, tmp_path)
    assert seen == [[2.0, 4.0]]


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
