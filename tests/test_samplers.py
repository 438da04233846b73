"""Samplers against denoisers whose answer is known exactly."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from helpers import embedded, positions_of

from rdgeodiff.diffusion.samplers import SAMPLERS, ancestral, network_calls
from rdgeodiff.diffusion.schedule import (
    ASCENT,
    Schedule,
    ascent_sigmas,
    karras_sigmas,
    revisited,
    stride_sigmas,
)
from rdgeodiff.geometry import align, random_rotations
from rdgeodiff.sampling import Sampling

NAMES = sorted(SAMPLERS)
DETERMINISTIC = ("ddim", "dpm_solver_pp_2m", "heun")
STOCHASTIC = (
    "ancestral",
    "dpm_solver_pp_2m_sde",
    "dpm_solver_pp_2s_ancestral",
    "euler_ancestral",
)
# To a maximum of the density, not to a sample of it.
CLIMBING = ("ancestral_ascent", "dpm_solver_pp_2m_ascent", "euler_ancestral_ascent")
AGAIN = ("ancestral_ascent", "euler_ancestral_ascent")  # if they are told to
DEFAULTS = Sampling()


def _default_levels(name: str) -> np.ndarray:
    if name == "ancestral":
        return Schedule().subset(DEFAULTS.steps)
    if name == "ancestral_ascent":
        return ascent_sigmas(DEFAULTS.steps, DEFAULTS.sigma_min, DEFAULTS.sigma_max)
    if name == "euler_ancestral_ascent":
        return stride_sigmas(DEFAULTS.steps, DEFAULTS.sigma_min, DEFAULTS.sigma_max)
    return karras_sigmas(DEFAULTS.steps, DEFAULTS.sigma_min, DEFAULTS.sigma_max, DEFAULTS.rho)


def _noise(shape: tuple[int, ...], seed: int = 0, centred: bool = True):
    generator = torch.Generator().manual_seed(seed)

    def noise(step: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return drawn - drawn.mean(1, keepdim=True) if centred else drawn

    return noise


@pytest.fixture(scope="module")
def target() -> torch.Tensor:
    """Four conformers of one molecule, centred."""
    x = torch.from_numpy(positions_of(embedded("CC(=O)Oc1ccccc1", 4)))
    return x - x.mean(1, keepdim=True)


def test_names_and_signatures():
    assert {"ancestral", "heun", "dpm_solver_pp_2m"} <= set(SAMPLERS)
    assert set(NAMES) == set(DETERMINISTIC + STOCHASTIC + CLIMBING), (
        "tell the new sampler's kind above"
    )
    assert DEFAULTS.sampler in SAMPLERS
    for sampler in SAMPLERS.values():
        assert list(inspect.signature(sampler).parameters) == [
            "denoiser", "x", "sigmas", "noise", "callback",
        ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_lands_on_the_known_structure(name, steps, target):
    levels = karras_sigmas(steps, 0.01, 12.17)
    noise = _noise(target.shape)
    start = levels[0] * noise(-1)
    fixed = SAMPLERS[name](lambda x, s: target, start, levels, noise=noise)
    assert (fixed - target).norm(dim=-1).max() < 0.01

    turned = SAMPLERS[name](lambda x, s: align(target, x), start, levels, noise=noise)
    assert (align(turned, target) - target).norm(dim=-1).max() < 0.01


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_path_is_the_exact_solution(name, target):
    """With D = target the flow is x(σ) = target + (σ/σ₀)(x₀ − target), a straight line."""
    levels = karras_sigmas(12, 0.01, 12.17)
    start = levels[0] * _noise(target.shape)(-1)
    visited = []

    def refuse(step: int) -> torch.Tensor:
        raise AssertionError("a deterministic sampler needs no noise")

    SAMPLERS[name](
        lambda x, s: target,
        start,
        levels,
        noise=refuse,
        callback=lambda step, sigma, x, denoised: visited.append((sigma, x)),
    )
    for sigma, x in visited:
        exact = target + sigma / levels[0] * (start - target)
        assert (x - exact).abs().max() < 1e-9


@pytest.mark.parametrize("name", sorted(set(DETERMINISTIC) - {"ddim"}))
def test_second_order_on_an_uneven_grid(name):
    """Half the step, a quarter of the error, also where long and short steps alternate."""

    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.tanh(sigma.log()).view(-1, 1, 1) + 0.5 * torch.sin(x)

    def arrive(steps: int) -> float:
        # ln σ from ln 5 to ln 0.2; every second step is three times as long.
        widths = np.tile([1.0, 3.0], steps // 2)
        path = np.append(0.0, np.cumsum(widths) / widths.sum())
        levels = np.append(5.0 * (0.2 / 5.0) ** path, 0.0)
        states: list[float] = []
        start = torch.full((1, 1, 3), 4.0, dtype=torch.float64)
        SAMPLERS[name](
            denoiser,
            start,
            levels,
            noise=lambda step: start,
            callback=lambda step, sigma, x, denoised: states.append(x[0, 0, 0].item()),
        )
        return states[-1]

    exact = arrive(4096)
    errors = [abs(arrive(n) - exact) for n in (32, 64, 128)]
    assert 3.0 < errors[0] / errors[1] < 5.5
    assert 3.0 < errors[1] / errors[2] < 5.5


@pytest.mark.parametrize("width", [0.3, 1.0, 3.0])
def test_multistep_extrapolates_to_the_middle_of_the_step(width):
    """Where D is linear in λ = −ln σ, the second step must use its value at λ + h/2."""
    lambdas = np.array([-1.0, 0.0, width])
    states: list[float] = []
    start = torch.full((1, 1, 3), 4.0, dtype=torch.float64)
    SAMPLERS["dpm_solver_pp_2m"](
        lambda x, sigma: (2.0 - 0.7 * sigma.log()).view(-1, 1, 1).expand_as(x),
        start,
        np.append(np.exp(-lambdas), 0.0),
        noise=lambda step: start,
        callback=lambda step, sigma, x, denoised: states.append(x[0, 0, 0].item()),
    )
    shrink = math.exp(-width)
    middle = 2.0 + 0.7 * width / 2
    assert states[2] == pytest.approx(shrink * states[1] + (1 - shrink) * middle)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_level_is_kept_on_the_way(name):
    """With D = 0 the state at level σ must have variance σ², whatever the steps before."""
    levels = karras_sigmas(15, 0.01, 12.17)
    noise = _noise((2000, 5, 3), centred=False)
    visited = []
    SAMPLERS[name](
        lambda x, s: torch.zeros_like(x),
        levels[0] * noise(-1),
        levels,
        noise=noise,
        callback=lambda step, sigma, x, denoised: visited.append((sigma, x.std().item())),
    )
    assert len(visited) == 15
    for sigma, spread in visited:
        assert spread == pytest.approx(sigma, rel=0.02)


GAUSSIAN_STEPS = {
    # Exact in the limit of many steps; the paper's kernel needs most of them.
    "ancestral": Schedule().subset(1000),
    "euler_ancestral": karras_sigmas(1000, 0.01, 12.17),
    "heun": karras_sigmas(25, 0.01, 12.17),
    "ddim": karras_sigmas(200, 0.01, 12.17),  # of first order
    "dpm_solver_pp_2m": karras_sigmas(25, 0.01, 12.17),
    "dpm_solver_pp_2m_sde": karras_sigmas(100, 0.01, 12.17),
    "dpm_solver_pp_2s_ancestral": karras_sigmas(25, 0.01, 12.17),
    "ancestral_ascent": ascent_sigmas(25, 0.01, 12.17),
    "dpm_solver_pp_2m_ascent": karras_sigmas(25, 0.01, 12.17),
    "euler_ancestral_ascent": karras_sigmas(200, 0.01, 12.17),
}


@pytest.mark.parametrize("name", DETERMINISTIC + STOCHASTIC)
def test_gaussian_target_has_the_right_moments(name):
    """For N(μ, s²) the exact denoiser is D = (s² x + σ² μ)/(s² + σ²)."""
    mean = torch.tensor([[0.5, -1.0, 2.0], [-2.0, 0.0, 1.0]], dtype=torch.float64)
    spread = 0.7
    levels = GAUSSIAN_STEPS[name]
    noise = _noise((4000, 2, 3), seed=4, centred=False)

    def exact(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        variance = sigma.view(-1, 1, 1) ** 2
        return (spread**2 * x + variance * mean) / (spread**2 + variance)

    start = mean + math.hypot(levels[0], spread) * noise(-1)
    found = SAMPLERS[name](exact, start, levels, noise=noise)
    # Standard errors: 0.7/√4000 = 0.011 of a mean, 0.7/√8000/√6 = 0.003 of the pooled spread.
    assert (found.mean(0) - mean).abs().max() < 0.045
    assert (found - mean).square().mean().sqrt().item() == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_two_point_target_is_shared_evenly(name):
    """Two structures ±μ: each sample must end at one of them, half of the samples at either."""
    mean = torch.tensor([[1.0, 0.5, -0.5], [-1.0, -0.5, 0.5]], dtype=torch.float64)
    levels = GAUSSIAN_STEPS[name]
    noise = _noise((2000, 2, 3), seed=5, centred=False)

    def exact(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        projection = (x * mean).sum((1, 2), keepdim=True) / sigma.view(-1, 1, 1) ** 2
        return torch.tanh(projection) * mean

    found = SAMPLERS[name](exact, levels[0] * noise(-1), levels, noise=noise)
    side = (found * mean).sum((1, 2)).sign().view(-1, 1, 1)
    assert (found - side * mean).abs().amax((1, 2)).median() < 0.01
    assert abs((side > 0).double().mean().item() - 0.5) < 0.045  # four standard errors


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
    noise = _noise((4000, 1, 3), seed=6, centred=False)
    generator = torch.Generator().manual_seed(7)
    drawn = centres[torch.multinomial(shares, 12_000, True, generator=generator)].view(4000, 1, 3)
    found = SAMPLERS[name](exact, drawn + levels[0] * noise(-1), levels, noise=noise)
    right = found > 0
    assert right.double().mean().item() == pytest.approx(1 / 3, abs=0.02)
    beside = torch.where(right, found - mean, found + mean)
    assert beside.square().mean().sqrt() < 0.05 * spread


@pytest.mark.parametrize("name", CLIMBING)
def test_the_ascent_draws_nothing_and_calls_once_a_level(name, target):
    levels, start = [0.5, 0.2, 0.1, 0.0], target + 0.5 * _noise(target.shape)(-1)

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
        noise = _noise((4000, 1, 3), seed=6, centred=False)
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
    levels, drawn, seen = [0.5, 0.2, 0.4, 0.1, 0.0], _noise(target.shape, seed=3)(0), []
    found = SAMPLERS["ancestral_ascent"](
        lambda x, s: seen.append((s[0].item(), x)) or 0.9 * x,
        target,
        levels,
        noise=lambda step: drawn if step == 1 else pytest.fail("noise at another level"),
    )
    assert [s for s, _ in seen] == pytest.approx(levels[:-1])
    again = 0.81 * target + 0.4 * drawn
    assert torch.allclose(seen[2][1], again) and torch.allclose(found, 0.81 * again)


def test_a_level_that_comes_again_is_fresh_noise_on_the_prediction(target):
    """Of `ddim`; its grid with more visits differs in that level alone, and its calls are told."""
    drawn, seen = _noise(target.shape, seed=3)(0), []
    found = SAMPLERS["ddim"](
        lambda x, s: seen.append(x) or 0.9 * x,
        target,
        [1.0, 1.0, 0.0],
        noise=lambda step: drawn if step == 0 else pytest.fail("noise at another level"),
    )
    assert torch.allclose(seen[1], 0.9 * target + drawn)
    assert torch.allclose(found, 0.9 * seen[1])

    plain = karras_sigmas(4, 0.25, 12.17)
    more = revisited(plain, 3, 0.6)
    assert more == pytest.approx([*plain[:3], plain[2], plain[2], *plain[3:]])
    assert revisited(plain, 1, 0.6) == pytest.approx(plain)
    assert revisited(karras_sigmas(2, 0.1, 0.3), 3, 0.6) == pytest.approx([0.3, 0.1, 0.0])
    assert network_calls("ddim", 4, 3) == 6


def test_a_level_of_a_climb_that_comes_again_is_a_climb_of_its_own(target):
    """Of `euler_ancestral_ascent`; above the ascent it is the paper's kernel."""
    drawn, seen = [_noise(target.shape, seed=k)(0) for k in range(4)], []
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
        SAMPLERS[name](lambda x, s: target, target, wrong, noise=_noise(target.shape))


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


def test_ancestral_step_is_the_papers_kernel():
    """One step in x equals the DDPM posterior in C = √ᾱ x, from β alone."""
    schedule = Schedule()
    beta, alpha_bar, sigma = schedule.betas, schedule.alpha_bars, schedule.sigmas
    generator = torch.Generator().manual_seed(0)
    for t in (1, 10, 477, 2000, 4000, 4999):
        x0, xt, z = (
            torch.randn(2, 5, 3, generator=generator, dtype=torch.float64) for _ in range(3)
        )
        xt = x0 + sigma[t] * xt
        states = []
        ancestral(
            lambda x, s, x0=x0: x0,
            xt,
            [sigma[t], sigma[t - 1], 0.0],
            noise=lambda step, z=z: z,
            callback=lambda step, level, x, denoised, states=states: states.append(x),
        )
        ct = math.sqrt(alpha_bar[t]) * xt
        mean = (
            math.sqrt(alpha_bar[t - 1]) * beta[t] / (1 - alpha_bar[t]) * x0
            + math.sqrt(1 - beta[t]) * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * ct
        )
        variance = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta[t]
        expected = mean + math.sqrt(variance) * z
        assert torch.allclose(math.sqrt(alpha_bar[t - 1]) * states[1], expected, rtol=0, atol=1e-9)


def test_ancestral_over_all_steps(target):
    """The paper's own sampling, T = 5000: follows the forward process, lands on the structure."""
    levels = Schedule().subset()
    noise = _noise(target[:1].shape)
    ratio = {}

    def watch(step: int, sigma: float, x: torch.Tensor, denoised: torch.Tensor) -> None:
        if step % 500 == 0:
            ratio[step] = ((x - target[:1]).square().mean().sqrt() / sigma).item()

    found = ancestral(
        lambda x, s: target[:1],
        target[:1] + levels[0] * noise(-1),
        levels,
        noise=noise,
        callback=watch,
    )
    assert (found - target[:1]).abs().max() < 0.01
    assert len(ratio) == 10
    assert all(0.6 < r < 1.4 for r in ratio.values())


@pytest.mark.parametrize("name", NAMES)
def test_calls_and_callbacks(name, target):
    levels = _default_levels(name)
    calls, seen = [], []

    def counted(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        assert sigma.shape == (len(x),)
        calls.append(sigma[0].item())
        return target

    noise = _noise(target.shape)
    SAMPLERS[name](
        counted,
        levels[0] * noise(-1),
        levels,
        noise=noise,
        callback=lambda step, sigma, x, denoised: seen.append((step, sigma, x.shape, denoised)),
    )
    assert [s for s, *_ in seen] == list(range(len(levels) - 1))
    assert [s for _, s, *_ in seen] == pytest.approx(levels[:-1])
    assert all(shape == target.shape and d is target for _, _, shape, d in seen)
    assert all(s > 0 for s in calls)
    more = {
        "heun": 2 * DEFAULTS.steps - 1,
        "dpm_solver_pp_2s_ancestral": 2 * DEFAULTS.steps,
        "ancestral_ascent": DEFAULTS.steps + sum(level > ASCENT for level in levels),
    }
    expected = more.get(name, DEFAULTS.steps)
    assert len(calls) == expected == network_calls(name, DEFAULTS.steps)


def test_default_stays_within_25_network_calls(target):
    calls = []
    levels = _default_levels(DEFAULTS.sampler)
    noise = _noise(target.shape)
    SAMPLERS[DEFAULTS.sampler](
        lambda x, s: calls.append(1) or target, levels[0] * noise(-1), levels, noise=noise
    )
    assert len(calls) <= 25


@pytest.mark.parametrize("name", NAMES)
def test_a_raising_callback_stops_the_sampler(name, target):
    calls = []

    def stop(step: int, *_: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SAMPLERS[name](
            lambda x, s: calls.append(1) or target,
            target,
            karras_sigmas(10),
            noise=_noise(target.shape),
            callback=stop,
        )
    assert len(calls) <= 7


@pytest.mark.parametrize("name", NAMES)
def test_samplers_turn_with_their_input(name, target):
    turn = random_rotations(len(target), torch.Generator().manual_seed(0)).double()
    levels = karras_sigmas(8)
    noise = _noise(target.shape)
    start = levels[0] * noise(-1)
    steps = [noise(k) for k in range(8)]

    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x * (x.square().sum((1, 2), keepdim=True) + 1.0).rsqrt()

    plain = SAMPLERS[name](denoiser, start, levels, noise=lambda k: steps[k])
    turned = SAMPLERS[name](denoiser, start @ turn.mT, levels, noise=lambda k: steps[k] @ turn.mT)
    assert (turned - plain @ turn.mT).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "levels", [[], [1.0], [0.0], [1.0, 0.5], [1.0, 2.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
)
def test_grids_that_do_not_descend_to_zero_are_refused(name, levels, target):
    if name == "ddim" and levels[:2] == [1.0, 1.0]:
        levels = [1.0, 1.0, 2.0, 0.0]  # a level may come again, a higher one not
    with pytest.raises(ValueError, match="decrease"):
        SAMPLERS[name](lambda x, s: target, target, levels, noise=_noise(target.shape))


@pytest.mark.parametrize("name", NAMES)
def test_input_is_not_changed(name, target):
    start = 12.17 * _noise(target.shape)(-1)
    kept = start.clone()
    SAMPLERS[name](
        lambda x, s: target, start, karras_sigmas(5, 0.01, 12.17), noise=_noise(target.shape)
    )
    assert torch.equal(start, kept)
