"""Samplers that climb end on summits of the density, and climb again where they are told to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sampler_cases import CLIMBING, NAMES, four_conformers, noise_of

from rdgeodiff.diffusion.samplers import SAMPLERS, network_calls
from rdgeodiff.diffusion.schedule import ASCENT, ascent_sigmas, karras_sigmas, stride_sigmas
from rdgeodiff.sampling import Sampling

AGAIN = ("ancestral_ascent", "euler_ancestral_ascent")  # if they are told to


@pytest.fixture(scope="module")
def target() -> torch.Tensor:
    return four_conformers()


def _of_gaussians(centres: torch.Tensor, shares: torch.Tensor, spread: float):
    """The exact denoiser of coordinates that are each drawn from a mixture of Gaussians."""

    def exact(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        variance = sigma.view(-1, 1, 1, 1) ** 2
        apart = x.unsqueeze(-1) - centres
        belongs = torch.softmax(shares.log() - 0.5 * apart**2 / (spread**2 + variance), -1)
        denoised = (spread**2 * x.unsqueeze(-1) + variance * centres) / (spread**2 + variance)
        return (belongs * denoised).sum(-1)

    return exact


@pytest.mark.parametrize("name", CLIMBING)
def test_the_ascent_ends_on_the_summit_that_the_noise_has_chosen(name):
    """Of two Gaussians, a wide one and one half as likely: nearly all spread is left behind, yet
    each is reached as often as it is likely."""
    mean, spread, shares = 4.0, 0.3, torch.tensor([2.0, 1.0], dtype=torch.float64) / 3
    centres = torch.tensor([-mean, mean], dtype=torch.float64)

    exact = _of_gaussians(centres, shares, spread)
    levels = ascent_sigmas(25, 0.04, 12.17)
    noise = noise_of((4000, 1, 3), seed=6, centred=False)
    generator = torch.Generator().manual_seed(7)
    drawn = centres[torch.multinomial(shares, 12_000, True, generator=generator)].view(4000, 1, 3)
    found = SAMPLERS[name](exact, drawn + levels[0] * noise(-1), levels, noise=noise)
    right = found > 0
    assert right.double().mean().item() == pytest.approx(1 / 3, abs=0.02)
    beside = torch.where(right, found - mean, found + mean)
    assert beside.square().mean().sqrt() < 0.05 * spread


@pytest.mark.parametrize("name", CLIMBING)
def test_the_ascent_draws_nothing_and_calls_once_a_level(name, target):
    levels, start = [0.5, 0.2, 0.1, 0.0], target + 0.5 * noise_of(target.shape)(-1)

    def refuse(step: int) -> torch.Tensor:
        raise AssertionError("there is no noise in an ascent")

    seen = []
    found = SAMPLERS[name](
        lambda x, s: seen.append((s[0].item(), x)) or 0.9 * x, start, levels, noise=refuse
    )
    assert [s for s, _ in seen] == pytest.approx(levels[:-1])
    assert torch.allclose(seen[2][1], 0.81 * start)
    assert torch.allclose(found, 0.729 * start)


@pytest.mark.parametrize("gap", [4.0, 0.6], ids=["too far to jump", "near enough"])
def test_further_climbs_end_on_summits_and_bring_back_what_the_first_has_merged(gap):
    """Two Gaussians, one three times as likely. From afar nobody jumps; where the first climb has
    led all to the likely one, noise of `reheat` finds the other again."""
    means = torch.tensor([-gap, gap], dtype=torch.float64)
    shares, spread = torch.tensor([0.25, 0.75], dtype=torch.float64), 0.1

    exact = _of_gaussians(means, shares, spread)
    drawn = means[(torch.arange(12_000) % 4 > 0).long()].view(4000, 1, 3)
    right = []
    for climbs in (1, 8):
        levels = ascent_sigmas(25, 0.02, 12.17, climbs=climbs, reheat=0.43)
        noise = noise_of((4000, 1, 3), seed=6, centred=False)
        start = drawn + levels[0] * noise(-1)
        found = SAMPLERS["ancestral_ascent"](exact, start, levels, noise=noise)
        likely = found > 0
        right.append(likely.double().mean().item())
        beside = torch.where(likely, found - gap, found + gap).abs()
        assert beside.flatten().quantile(0.99) < 0.05  # a few stand on the watershed to the end
    if gap > 1:
        assert right == pytest.approx([0.75, 0.75], abs=0.02)
    else:
        assert right[0] > 0.99 and 0.75 < right[1] < 0.95


def test_a_climb_starts_from_noise_on_the_summit_before_it(target):
    """Levels that rise: the noise of the next level, on the prediction and nothing else."""
    levels, drawn, seen = [0.5, 0.2, 0.4, 0.1, 0.0], noise_of(target.shape, seed=3)(0), []
    found = SAMPLERS["ancestral_ascent"](
        lambda x, s: seen.append((s[0].item(), x)) or 0.9 * x,
        target,
        levels,
        noise=lambda step: drawn if step == 1 else pytest.fail("noise at another level"),
    )
    assert [s for s, _ in seen] == pytest.approx(levels[:-1])
    again = 0.81 * target + 0.4 * drawn
    assert torch.allclose(seen[2][1], again) and torch.allclose(found, 0.81 * again)


def test_a_level_of_a_climb_that_comes_again_is_a_climb_of_its_own(target):
    """Of `euler_ancestral_ascent`; above the ascent it is the paper's kernel."""
    drawn, seen = [noise_of(target.shape, seed=k)(0) for k in range(4)], []
    found = SAMPLERS["euler_ancestral_ascent"](
        lambda x, s: seen.append(x) or 0.9 * x,
        target,
        [2.0, 0.8, 0.4, 0.5, 0.5, 0.0],
        noise=lambda step: drawn[step] if step != 1 else pytest.fail("noise in an ascent"),
    )
    above = SAMPLERS["euler_ancestral"](
        lambda x, s: 0.9 * x if s[0] > 1 else x, target, [2.0, 0.8, 0.0], noise=lambda k: drawn[0]
    )
    assert torch.allclose(seen[1], above) and torch.allclose(seen[2], 0.9 * seen[1])
    assert torch.allclose(seen[3], 0.9 * seen[2] + 0.5 * drawn[2])
    assert torch.allclose(seen[4], 0.9 * seen[3] + 0.5 * drawn[3])
    assert torch.allclose(found, 0.9 * seen[4])


def test_the_grid_of_strides_ends_in_climbs():
    assert stride_sigmas(6, 0.4, 12.17, foot=0.8, climbs=3) == pytest.approx(
        [*karras_sigmas(5, 0.8, 12.17)[:5], 0.4, 0.5, 0.5, 0.0]
    )
    assert stride_sigmas(3, 0.4, 12.17, foot=0.45, climbs=2)[1:] == pytest.approx(
        [0.45, 0.4, 0.45, 0.0]
    )
    assert stride_sigmas(4, 0.5, 12.17, foot=0.5) == pytest.approx(karras_sigmas(4, 0.5, 12.17))
    assert network_calls("euler_ancestral_ascent", 6, 3) == 8


@pytest.mark.parametrize("name", NAMES)
def test_levels_that_rise_are_refused_where_nothing_climbs(name, target):
    wrong = [2.0, 0.5, 1.0, 0.1, 0.0] if name in AGAIN else [0.5, 0.2, 0.4, 0.1, 0.0]
    with pytest.raises(ValueError, match="decrease strictly"):
        SAMPLERS[name](lambda x, s: target, target, wrong, noise=noise_of(target.shape))


@pytest.mark.parametrize("count", range(3, 30))
def test_further_climbs_add_levels_and_change_none(count):
    plain, more = (
        ascent_sigmas(count, 0.04, 12.17),
        ascent_sigmas(count, 0.04, 12.17, climbs=4, reheat=0.6),
    )
    assert set(plain) <= set(np.minimum.accumulate(more))
    rises = np.flatnonzero(np.diff(more) > 0)
    assert more[rises + 1] == pytest.approx([0.6] * len(rises))
    assert len(rises) == 3 or more[more <= ASCENT][:2] == pytest.approx([ASCENT, 0.6])
    above = int((more > ASCENT).sum())
    assert len(more) - 1 + above == network_calls("ancestral_ascent", count, 4)


@pytest.mark.parametrize("count", range(1, 30))
def test_the_grid_of_an_ascent_meets_its_level(count):
    levels = ascent_sigmas(count, 0.04, 12.17)
    assert len(levels) == count + 1 and levels[-1] == 0
    assert levels[0] == pytest.approx(12.17)
    assert (np.diff(levels) < 0).all()
    if count > 1:
        assert ASCENT in levels
        above = int((levels > ASCENT).sum())
        assert network_calls("ancestral_ascent", count) == count + above
        assert above == max(1, round(0.44 * count))
    if count > 2:
        assert levels[-2] == pytest.approx(0.04)
    small = Sampling(foot=0.8, foot_small=0.5, atoms_small=20, atoms_large=40)
    assert [small.foot_for(n) for n in (1, 20, 30, 40, 90)] == pytest.approx(
        [0.5, 0.5, 0.65, 0.8, 0.8]
    )
    sizes = Sampling(climbs=5, atoms_small=20, atoms_large=40)
    assert [sizes.climbs_for(n) for n in (1, 20, 30, 40, 90)] == [1, 1, 3, 5, 5]
    assert (count == 1) or 0.5 in ascent_sigmas(count, 0.04, 12.17, foot=small.foot_for(9))
    outside = ascent_sigmas(count, 0.01, 0.5)
    assert outside == pytest.approx(karras_sigmas(count, 0.01, 0.5))
