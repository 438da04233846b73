"""Annealed Langevin dynamics, which the original GeoDiff samples with, in full and as a finish.

It stands beside `samplers` because it goes by small steps only: it wants all 5000 noise levels, or
at least many hundreds, where the others want some dozens. What it has over them is that errors of
the network average out over its steps. `staged` takes the best of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.diffusion.samplers import dpm_solver_pp_2m_sde
from rdgeodiff.diffusion.schedule import karras_sigmas
from rdgeodiff.diffusion.solvers import Callback, Noise


def langevin(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
    rate: float = 0.01,
    noise_rate: float | None = None,
) -> torch.Tensor:
    """x ← x + r (D − x) + σ √(2r′) z, once a noise level.

    This is algorithm 1 of Song & Ermon (2019) with one step a level, if r′ = r.

    Args:
        rate: r; 0.01 in the original release.
        noise_rate: r′, by default r. Less of it samples at a lower temperature.
    """
    levels = [float(s) for s in sigmas]
    if len(levels) < 2 or levels[-1] != 0 or min(levels[:-1]) <= 0:
        raise ValueError("noise levels must be positive and end in 0")
    kick = math.sqrt(2.0 * (rate if noise_rate is None else noise_rate))
    for step, sigma in enumerate(levels[:-1]):
        denoised = denoiser(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device))
        if callback is not None:
            callback(step, sigma, x, denoised)
        x = x + rate * (denoised - x) + sigma * kick * noise(step)
    return x


def staged(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
    switch: float = 0.5,
    rate: float = 1.5,
    noise_rate: float = 0.03,
) -> torch.Tensor:
    """Few steps of SDE-DPM-Solver++(2M) at and above `switch` Å, Langevin dynamics below.

    What the first stage arrives at is noised again to the first level of the second one, which
    takes `rate` and `noise_rate` of `langevin`.
    """
    first = [float(s) for s in sigmas if s >= switch]
    second = [float(s) for s in sigmas if s < switch]

    def later(step: int) -> torch.Tensor:
        return noise(len(first) + step)

    def told(step: int, sigma: float, x: torch.Tensor, denoised: torch.Tensor) -> None:
        if callback is not None:
            callback(len(first) + step, sigma, x, denoised)

    if first:
        x = dpm_solver_pp_2m_sde(denoiser, x, [*first, 0.0], noise=noise, callback=callback)
        if len(second) > 1:
            x = x + second[0] * noise(len(first) - 1)
    if len(second) < 2:
        return x
    return langevin(
        denoiser, x, second, noise=later, callback=told, rate=rate, noise_rate=noise_rate
    )


def staged_sigmas(
    count: int, sigma_min: float, sigma_max: float, switch: float = 0.5
) -> list[float]:
    """`count` levels for `staged` and 0: a quarter of them in its first stage."""
    if count < 2 or not 0 < sigma_min < switch < sigma_max:
        raise ValueError(f"{count} levels from {sigma_max} to {sigma_min} Å leave out a stage")
    first = max(1, count // 4)
    high = karras_sigmas(first, switch, sigma_max, 5.0)[:-1]
    low = (
        np.geomspace(0.999 * switch, sigma_min, count - first)
        if count - first > 1
        else [switch / 2]
    )
    high[-1] = switch  # which rounding may have missed
    return [*(float(s) for s in high), *(float(s) for s in low), 0.0]
