"""What every sampler keeps to: levels, calls, callbacks, its input; one is the paper's kernel."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from sampler_cases import CLIMBING, DETERMINISTIC, NAMES, STOCHASTIC, four_conformers, noise_of

from rdgeodiff.diffusion.samplers import SAMPLERS, ancestral, network_calls
from rdgeodiff.diffusion.schedule import (
    ASCENT,
    Schedule,
    ascent_sigmas,
    karras_sigmas,
    revisited,
    stride_sigmas,
)
from rdgeodiff.geometry import random_rotations
from rdgeodiff.sampling import Sampling

DEFAULTS = Sampling()


@pytest.fixture(scope="module")
def target() -> torch.Tensor:
    return four_conformers()


def _default_levels(name: str) -> np.ndarray:
    if name == "ancestral":
        return Schedule().subset(DEFAULTS.steps)
    if name == "ancestral_ascent":
        return ascent_sigmas(DEFAULTS.steps, DEFAULTS.sigma_min, DEFAULTS.sigma_max)
    if name == "euler_ancestral_ascent":
        return stride_sigmas(DEFAULTS.steps, DEFAULTS.sigma_min, DEFAULTS.sigma_max)
    return karras_sigmas(DEFAULTS.steps, DEFAULTS.sigma_min, DEFAULTS.sigma_max, DEFAULTS.rho)


def test_names_and_signatures():
    assert {"ancestral", "heun", "dpm_solver_pp_2m"} <= set(SAMPLERS)
    assert set(NAMES) == set(DETERMINISTIC + STOCHASTIC + CLIMBING), (
        "tell the new sampler's kind in sampler_cases.py"
    )
    assert DEFAULTS.sampler in SAMPLERS
    for sampler in SAMPLERS.values():
        assert list(inspect.signature(sampler).parameters) == [
            "denoiser", "x", "sigmas", "noise", "callback",
        ]  # fmt: skip


def test_a_level_that_comes_again_is_fresh_noise_on_the_prediction(target):
    """Of `ddim`; its grid with more visits differs in that level alone, and its calls are told."""
    drawn, seen = noise_of(target.shape, seed=3)(0), []
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
    noise = noise_of(target[:1].shape)
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

    noise = noise_of(target.shape)
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
    noise = noise_of(target.shape)
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
            noise=noise_of(target.shape),
            callback=stop,
        )
    assert len(calls) <= 7


@pytest.mark.parametrize("name", NAMES)
def test_samplers_turn_with_their_input(name, target):
    turn = random_rotations(len(target), torch.Generator().manual_seed(0)).double()
    levels = karras_sigmas(8)
    noise = noise_of(target.shape)
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
        SAMPLERS[name](lambda x, s: target, target, levels, noise=noise_of(target.shape))


@pytest.mark.parametrize("name", NAMES)
def test_input_is_not_changed(name, target):
    start = 12.17 * noise_of(target.shape)(-1)
    kept = start.clone()
    SAMPLERS[name](
        lambda x, s: target, start, karras_sigmas(5, 0.01, 12.17), noise=noise_of(target.shape)
    )
    assert torch.equal(start, kept)
