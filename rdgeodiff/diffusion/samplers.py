"""Reverse processes. Each takes a denoiser from noise to structure on a grid of noise levels.

All share one signature, `sample(denoiser, x, sigmas, *, noise, callback=None)`:

* denoiser: D(x, σ), see `rdgeodiff.diffusion.denoiser`; nothing else is known of the model.
* x: (B, N, 3) centred positions at noise level sigmas[0], in Å.
* sigmas: decreasing noise levels in Å that end in 0.
* noise: noise(step) gives (B, N, 3) standard normal, centre-of-mass free.
* callback: called as callback(step, σ, x, denoised) after each denoiser call that starts a step;
  what it raises stops the sampler.

They return clean positions (B, N, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from rdgeodiff.diffusion.ascents import (
    ancestral_ascent,
    dpm_solver_pp_2m_ascent,
    euler_ancestral_ascent,
)
from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.diffusion.schedule import LEVELS_AGAIN, levels_above_ascent
from rdgeodiff.diffusion.solvers import (
    Callback,
    Noise,
    ancestral_1s,
    ancestral_2s,
    evaluate,
    levels,
    multistep,
    pairs,
)


class Sampler(Protocol):
    """The signature of a sampler."""

    def __call__(
        self,
        denoiser: Denoiser,
        x: torch.Tensor,
        sigmas: Sequence[float],
        *,
        noise: Noise,
        callback: Callback | None = None,
    ) -> torch.Tensor: ...


def ancestral(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """The paper's reverse Markov kernel p(Cˢ|Cᵗ) = N(μ_θ, β̃ I) over any subset of the T steps.

    In σ the posterior of x_s given x_t and C⁰ = D has mean D + (σ_s²/σ_t²)(x_t − D) and variance
    σ_s²(σ_t² − σ_s²)/σ_t², which is β̃ of the paper (eq. 2) divided by ᾱ_s.
    """
    return ancestral_1s(denoiser, x, sigmas, noise, callback)


def heun(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Deterministic second-order solver (Karras et al. 2022, algorithm 1): two calls a step."""
    for step, (now, after) in enumerate(pairs(sigmas)):
        slope = (x - evaluate(denoiser, x, now, step, callback)) / now
        moved = x + (after - now) * slope
        if after > 0:
            second = (moved - denoiser(moved, levels(moved, after))) / after
            moved = x + (after - now) * 0.5 * (slope + second)
        x = moved
    return x


def ddim(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """DDIM (Song et al. 2021, eq. 12, without noise): deterministic, first order, one call a step.

    A network distilled for it lands with few calls where others need many. A level that comes once
    more is reached with fresh noise on the prediction: what is wrong there is looked at again (as
    Xu et al. 2023 restart, see `ancestral_ascent`).
    """
    for step, (now, after) in enumerate(pairs(sigmas, repeating=True)):
        denoised = evaluate(denoiser, x, now, step, callback)
        if after < now:
            x = denoised + (after / now) * (x - denoised)
        else:
            x = denoised + after * noise(step)
    return x


def dpm_solver_pp_2m(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022): deterministic, second order, one call a step."""
    return multistep(denoiser, x, sigmas, noise, callback, churn=0.0)


def dpm_solver_pp_2m_sde(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022): as `dpm_solver_pp_2m` with fresh noise each step,
    which forgets the errors of earlier steps."""
    return multistep(denoiser, x, sigmas, noise, callback, churn=1.0)


def dpm_solver_pp_2s_ancestral(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """DPM-Solver++(2S) (Lu et al. 2022, algorithm 1) with ancestral noise: two calls a step.

    A step from σ_t leads deterministically to σ_s²/σ_t and from there, with fresh noise, up to the
    next level σ_s: what was left wrong there is seen once more. The midpoint of the deterministic
    part in ln σ is σ_s itself; the last step, to 0, has it at `LAST_MIDPOINT` of its level. The two
    predictions a step is made of belong to one path, where `dpm_solver_pp_2m_sde` extrapolates
    over the noise it has added between its two.
    """
    return ancestral_2s(denoiser, x, sigmas, noise, callback)


SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "heun": heun,
    "ddim": ddim,
    # The same kernel under the name of another grid: a few Karras levels instead of the schedule's,
    # for networks distilled to them.
    "euler_ancestral": ancestral,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
    "dpm_solver_pp_2m_sde": dpm_solver_pp_2m_sde,
    "dpm_solver_pp_2s_ancestral": dpm_solver_pp_2s_ancestral,
    "ancestral_ascent": ancestral_ascent,
    "dpm_solver_pp_2m_ascent": dpm_solver_pp_2m_ascent,
    "euler_ancestral_ascent": euler_ancestral_ascent,
}


def network_calls(sampler: str, levels: int, climbs: int = 1) -> int:
    """Denoiser calls of `sampler` on so many noise levels (0 not counted) of its own grid.

    Those that `climbs` add to the grids of `ancestral_ascent` and `ddim` are counted, too."""
    if sampler == "dpm_solver_pp_2s_ancestral":
        return 2 * levels
    if sampler == "ancestral_ascent":
        return levels + levels_above_ascent(levels) + (climbs - 1) * LEVELS_AGAIN
    if sampler in ("ddim", "euler_ancestral_ascent"):
        return levels + climbs - 1
    return 2 * levels - 1 if sampler == "heun" else levels
