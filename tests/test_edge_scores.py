"""Few-step sampling with scores of edges: right scores must give the right structure."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers import batch_of, embedded, largest_difference, noisy, positions_of

from rdgeodiff.architectures import EdgeScoreProcess
from rdgeodiff.diffusion.edge_scores import (
    Distances,
    clean_distances,
    distance_denoiser,
    field_denoiser,
    majorize,
)
from rdgeodiff.diffusion.langevin import langevin, staged, staged_sigmas
from rdgeodiff.diffusion.original_geodiff import OriginalSampling
from rdgeodiff.geometry import center, random_rotations
from rdgeodiff.nn.atom_graphs import AtomGraphs, Edges
from rdgeodiff.nn.dual_encoder import EdgeScores
from rdgeodiff.sampling import Sampling

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
SETTINGS = OriginalSampling()


class ExactScores:
    """Knows the clean positions; told the noise level, which the real network has to guess."""

    def __init__(self, graphs: AtomGraphs, clean: torch.Tensor) -> None:
        self.graphs, self.clean, self.sigma = graphs, clean, 1.0
        self.calls = 0

    def __call__(self, x: torch.Tensor, with_global: bool = True) -> EdgeScores:
        self.calls += 1
        edges = Edges.of(self.graphs, x, 10.0, None)
        source, target = edges.index
        wanted = (self.clean[source] - self.clean[target]).norm(dim=-1)
        score = (wanted - edges.length) / self.sigma
        return EdgeScores(edges, score if with_global else None, score[edges.is_local], len(x))


def case(*smiles: str):
    batch = batch_of(*smiles)
    clean = torch.zeros(*batch.mask.shape, 3)
    for k, text in enumerate(smiles):
        positions = torch.from_numpy(positions_of(embedded(text))[0]).float()
        clean[k, : len(positions)] = positions
    clean = center(clean, batch.mask)
    return batch, clean, ExactScores(AtomGraphs.from_batch(batch), clean[batch.mask])


def denoiser_of(batch, score, settings=SETTINGS, make=distance_denoiser):
    plain = make(score, batch.mask, settings)

    def denoised(x, sigma):
        score.sigma = float(sigma.max())
        return plain(x, sigma)

    return denoised


def distance_error(x, clean, batch) -> list[float]:
    """Root mean square difference of all distances of each molecule in Å."""
    errors = []
    for k, n in enumerate(batch.n_atoms.tolist()):
        wrong = torch.cdist(x[k, :n], x[k, :n]) - torch.cdist(clean[k, :n], clean[k, :n])
        errors.append(float(wrong.square().mean().sqrt()))
    return errors


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("dpm_solver_pp_2m_sde", 20), ("dpm_solver_pp_2m", 50), ("ancestral", 50), ("staged", 50)],
)
def test_few_steps_land_on_the_target(sampler, steps):
    batch, clean, score = case(*[ASPIRIN] * 8)
    process = EdgeScoreProcess()
    levels = process.noise_levels(Sampling(), sampler, steps)
    generator = torch.Generator().manual_seed(0)

    def noise(step: int) -> torch.Tensor:
        return center(torch.randn(clean.shape, generator=generator), batch.mask)

    by_distances = denoiser_of(batch, score)
    by_field = denoiser_of(batch, score, make=functools.partial(field_denoiser, divided=True))

    def denoiser(x, sigma):
        second = sampler == "staged" and float(sigma.max()) < 0.5
        return (by_field if second else by_distances)(x, sigma)

    x = process.sampler(sampler)(denoiser, levels[0] * noise(-1), levels, noise=noise)
    errors = sorted(distance_error(x, clean, batch))
    assert score.calls == steps
    # Left over is a methyl or ring turned inside out here and there: distances do not tell hands.
    assert errors[4] < 0.1 and errors[-1] < 0.25, errors


@pytest.mark.parametrize("smiles", ["CCO", ASPIRIN, "CCCCCCCC"])
def test_the_second_stage_does_not_overshoot(smiles):
    """The sum over edges grows with their number; divided by it, it is a step of safe length."""
    batch, clean, score = case(smiles)
    x = center(clean + noisy(batch, 0.05), batch.mask)
    field = denoiser_of(batch, score, make=functools.partial(field_denoiser, divided=True))
    summed = denoiser_of(batch, score, make=field_denoiser)
    sigma = torch.tensor([0.1])
    for _ in range(60):
        x = x + 1.5 * (field(x, sigma) - x)
    assert distance_error(x, clean, batch)[0] < 2e-3
    x = center(clean + noisy(batch, 0.05), batch.mask)
    one = (summed(x, sigma) - x).norm() / (field(x, sigma) - x).norm()
    assert 1.0 < one <= 2.0 * (len(clean[0]) - 1) + 1e-3


def test_stages_meet_without_a_gap():
    """Each level is visited once, downwards; a start below the switch is Langevin alone."""
    batch, clean, score = case("CCO")
    levels = staged_sigmas(20, 0.01, 12.0)
    assert len(levels) == 21 and levels[-1] == 0.0
    assert all(a > b for a, b in zip(levels, levels[1:], strict=False))
    assert sum(s >= 0.5 for s in levels) == 5
    told: list[tuple[int, float]] = []
    asked: list[int] = []

    def noise(step: int) -> torch.Tensor:
        asked.append(step)
        return noisy(batch, 1.0, seed=step)

    def watch(step, sigma, x, denoised):
        told.append((step, sigma))

    staged(lambda x, s: clean, clean, levels, noise=noise, callback=watch)
    assert told == list(enumerate(levels[:-1]))
    assert asked == list(range(20))
    for low in ([0.3, 0.1, 0.0], [0.3, 0.0]):
        alone = staged(lambda x, s: clean, clean, low, noise=noise)
        plain = langevin(lambda x, s: clean, clean, low, noise=noise, rate=1.5, noise_rate=0.03)
        assert torch.equal(alone, plain)
    only_high = staged(lambda x, s: clean, noisy(batch, 9.0), [9.0, 1.0, 0.0], noise=noise)
    assert torch.equal(only_high, clean)
    for count, low, high in ((1, 0.01, 12.0), (9, 0.6, 12.0), (9, 0.01, 0.4)):
        with pytest.raises(ValueError, match="leave out a stage"):
            staged_sigmas(count, low, high)


def test_predictions_below_the_global_level_have_all_distances_right():
    batch, clean, score = case(ASPIRIN, "CCO", "C#N")
    for sigma in (0.01, 0.1, 0.3):
        x = clean + sigma * noisy(batch, 1.0, seed=4)
        found = denoiser_of(batch, score)(x, torch.full((3,), sigma))
        assert max(distance_error(found, clean, batch)) < 0.05
        assert (found[~batch.mask] == 0).all()
        assert found.sum(1).abs().max() < 1e-3


def test_prediction_turns_with_the_positions_and_ignores_batch_mates():
    batch, clean, score = case(ASPIRIN, "CCO", "C#N")
    sigma = torch.full((3,), 0.8)
    x = center(clean + noisy(batch, 0.8, seed=2), batch.mask)
    plain = denoiser_of(batch, score)(x, sigma)
    turn = random_rotations(3, torch.Generator().manual_seed(0))
    turned = denoiser_of(batch, score)(x @ turn.mT, sigma)
    assert largest_difference(turned, plain @ turn.mT) < 2e-3
    alone, right, only = case("CCO")
    n = int(alone.n_atoms[0])
    only.clean = clean[1, :n]
    found = denoiser_of(alone, only)(x[1:2, :n], sigma[:1])
    assert largest_difference(found, plain[1:2, :n]) < 1e-4


def test_the_global_branch_counts_below_its_level_only():
    batch, clean, score = case(ASPIRIN)
    seen = []

    def watched(x, with_global):
        seen.append(with_global)
        return score(x, with_global)

    denoised = distance_denoiser(watched, batch.mask, OriginalSampling(global_start_sigma=0.3))
    for sigma in (3.0, 0.3, 0.29):
        denoised(clean, torch.tensor([sigma]))
    assert seen == [False, False, True]


def test_absurd_scores_give_distances_a_molecule_can_have():
    batch, clean, score = case(ASPIRIN)
    for shift in (-1e6, 1e6):
        scores = score(clean[batch.mask])
        wild = EdgeScores(
            scores.edges, scores.of_global + shift, scores.of_local + shift, scores.n_atoms
        )
        found = clean_distances(wild, batch.mask, torch.tensor([0.4]), 1.0)
        used = found.wanted[found.weight > 0]
        assert used.min() >= 0.5 and used.max() <= 20.0
        assert torch.allclose(found.wanted, found.wanted.mT)


def test_a_broken_molecule_leaves_the_others_alone():
    batch, clean, _ = case("CCO", "C#N")
    distance = torch.cdist(clean, clean)
    weight = (batch.mask.unsqueeze(1) & batch.mask.unsqueeze(2)).float()
    x = clean + noisy(batch, 0.2)
    whole = majorize(x, Distances(distance, weight), batch.mask)
    assert max(distance_error(whole, clean, batch)) < 0.03
    for name in ("wanted", "weight"):
        damaged = {"wanted": distance.clone(), "weight": weight.clone()}
        damaged[name][0, 0, 1] = torch.nan
        found = majorize(x, Distances(**damaged), batch.mask)
        assert not found[0].isfinite().any()
        assert torch.equal(found[1], whole[1])


def test_stress_falls_in_every_round():
    batch, clean, _ = case(ASPIRIN)
    distance, weight = torch.cdist(clean, clean), torch.ones(1, 21, 21) - torch.eye(21)
    x = noisy(batch, 3.0)

    def stress(rounds: int) -> float:
        y = majorize(x, Distances(distance, weight), batch.mask, rounds)
        return float((weight * (torch.cdist(y, y) - distance).square()).sum())

    found = [stress(k) for k in (1, 2, 4, 8, 16)]
    assert all(a > b for a, b in zip(found, found[1:], strict=False))


def test_noise_levels():
    process, sampling = EdgeScoreProcess(), Sampling(sampler="heun", steps=7)
    own = process.tables.sigmas.double()
    assert len(process.noise_levels(sampling, "langevin", 0)) == 5001
    assert process.noise_levels(sampling, "langevin", 0)[:-1] == own.flip(0).tolist()
    ancestral = process.noise_levels(sampling, "ancestral", 5000)
    assert ancestral == process.noise_levels(sampling, "langevin", 5000)
    assert len(process.noise_levels(sampling, "heun", 0)) == 8
    with pytest.raises(ValueError, match="1 to 5000"):
        process.noise_levels(sampling, "langevin", 5001)
    with pytest.raises(ValueError, match="unknown sampler 'euler'.*langevin"):
        process.sampler("euler")
