"""What samplers have in common: their steps, and how they walk a grid of noise levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from rdgeodiff.diffusion.denoiser import Denoiser

LAST_MIDPOINT = 0.27  # of the last level, where `ancestral_2s` looks once more

Noise = Callable[[int], torch.Tensor]
Callback = Callable[[int, float, torch.Tensor, torch.Tensor], None]


def multistep(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    callback: Callback | None,
    churn: float,
    stop: int = -1,
    ascent: float = 0.0,
) -> torch.Tensor:
    """Of `stop` steps where that is not negative, down to 0 otherwise; uphill from `ascent` on."""
    previous: torch.Tensor | None = None
    last_width = 0.0
    for step, (now, after) in enumerate(pairs(sigmas)):
        if step == stop:
            break
        denoised = evaluate(denoiser, x, now, step, callback)
        if after == 0:
            return denoised
        if now <= ascent:
            x = denoised
            continue
        width = math.log(now / after)  # in λ = −ln σ
        # e^{-h} with h = λ' − λ, made larger by the noise that is added back.
        decay = math.exp(-width * (1.0 + churn))
        extrapolated = denoised
        if previous is not None:
            extrapolated = denoised + (denoised - previous) * (0.5 * width / last_width)
        x = (after / now) * math.exp(-churn * width) * x + (1.0 - decay) * extrapolated
        if churn > 0:
            x = x + after * math.sqrt(-math.expm1(-2.0 * churn * width)) * noise(step)
        previous, last_width = denoised, width
    return x


def ancestral_1s(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    callback: Callback | None,
    ascent: float = 0.0,
) -> torch.Tensor:
    """Uphill from the level `ascent` on, where a level that comes once more is a new climb."""
    for step, (now, after) in enumerate(pairs(sigmas, rising_below=ascent)):
        denoised = evaluate(denoiser, x, now, step, callback)
        if now <= ascent:
            x = denoised + after * noise(step) if after >= now else denoised
            continue
        keep = (after / now) ** 2
        x = denoised + keep * (x - denoised)
        if after > 0:
            x = x + after * math.sqrt(1.0 - keep) * noise(step)
    return x


def ancestral_2s(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    callback: Callback | None,
    ascent: float = 0.0,
) -> torch.Tensor:
    """Uphill from the level `ascent` on."""
    for step, (now, after) in enumerate(pairs(sigmas, rising_below=ascent)):
        denoised = evaluate(denoiser, x, now, step, callback)
        if now <= ascent:
            x = denoised + after * noise(step) if after > now else denoised
            continue
        between = after if after > 0 else LAST_MIDPOINT * now
        middle = denoised + (between / now) * (x - denoised)
        ahead = denoiser(middle, levels(middle, between))
        below = (after / now) ** 2  # of the noise in `x`, that which is left at σ_s²/σ_t
        x = ahead + below * (x - ahead)
        if after > 0:
            x = x + after * math.sqrt(1.0 - below) * noise(step)
    return x


def advance(denoiser: Denoiser, x: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """Positions (B, N, 3) at sigmas[-1], which need not be 0, from `x` at sigmas[0].

    Deterministic, by DPM-Solver++(2M): a part of the way of `dpm_solver_pp_2m`.
    """
    if float(sigmas[-1]) == 0:
        return multistep(denoiser, x, sigmas, _no_noise, None, churn=0.0)
    return multistep(denoiser, x, [*sigmas, 0.0], _no_noise, None, churn=0.0, stop=len(sigmas) - 1)


def _no_noise(step: int) -> torch.Tensor:
    raise AssertionError("a deterministic sampler draws nothing")


def pairs(
    sigmas: Sequence[float], rising_below: float = 0.0, repeating: bool = False
) -> list[tuple[float, float]]:
    """Each level with the next; up to `rising_below` they may also rise, or else repeat."""
    grid = [float(s) for s in sigmas]
    found = list(zip(grid, grid[1:], strict=False))
    wrong = [
        (now, after)
        for now, after in found
        if not (now > after or 0 < after <= rising_below or (repeating and now == after > 0))
    ]
    if not found or grid[-1] != 0 or wrong:
        raise ValueError("noise levels must decrease strictly and end in 0")
    return found


def evaluate(
    denoiser: Denoiser, x: torch.Tensor, sigma: float, step: int, callback: Callback | None
) -> torch.Tensor:
    denoised = denoiser(x, levels(x, sigma))
    if callback is not None:
        callback(step, sigma, x, denoised)
    return denoised


def levels(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.full((x.shape[0],), sigma, dtype=x.dtype, device=x.device)
