"""Samplers against denoisers whose answer is known exactly: paths, orders and distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sampler_cases import DETERMINISTIC, NAMES, STOCHASTIC, four_conformers, noise_of

from rdgeodiff.diffusion.samplers import SAMPLERS
from rdgeodiff.diffusion.schedule import Schedule, ascent_sigmas, karras_sigmas
from rdgeodiff.geometry import align


@pytest.fixture(scope="module")
def target() -> torch.Tensor:
    return four_conformers()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_lands_on_the_known_structure(name, steps, target):
    levels = karras_sigmas(steps, 0.01, 12.17)
    noise = noise_of(target.shape)
    start = levels[0] * noise(-1)
    fixed = SAMPLERS[name](lambda x, s: target, start, levels, noise=noise)
    assert (fixed - target).norm(dim=-1).max() < 0.01

    turned = SAMPLERS[name](lambda x, s: align(target, x), start, levels, noise=noise)
    assert (align(turned, target) - target).norm(dim=-1).max() < 0.01


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_path_is_the_exact_solution(name, target):
    """With D = target the flow is x(σ) = target + (σ/σ₀)(x₀ − target), a straight line."""
    levels = karras_sigmas(12, 0.01, 12.17)
    start = levels[0] * noise_of(target.shape)(-1)
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
    noise = noise_of((2000, 5, 3), centred=False)
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
    noise = noise_of((4000, 2, 3), seed=4, centred=False)

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
    noise = noise_of((2000, 2, 3), seed=5, centred=False)

    def exact(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        projection = (x * mean).sum((1, 2), keepdim=True) / sigma.view(-1, 1, 1) ** 2
        return torch.tanh(projection) * mean

    found = SAMPLERS[name](exact, levels[0] * noise(-1), levels, noise=noise)
    side = (found * mean).sum((1, 2)).sign().view(-1, 1, 1)
    assert (found - side * mean).abs().amax((1, 2)).median() < 0.01
    assert abs((side > 0).double().mean().item() - 0.5) < 0.045  # four standard errors
