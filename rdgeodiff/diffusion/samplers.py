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

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.diffusion.schedule import ASCENT, LEVELS_AGAIN, levels_above_ascent

LAST_MIDPOINT = 0.27  # of the last level, where `dpm_solver_pp_2s_ancestral` looks once more
FLOW_ASCENT = 0.6  # Å, the highest level from which `dpm_solver_pp_2m_ascent` climbs

Noise = Callable[[int], torch.Tensor]
Callback = Callable[[int, float, torch.Tensor, torch.Tensor], None]


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
    for step, (now, after) in enumerate(_pairs(sigmas)):
        denoised = _evaluate(denoiser, x, now, step, callback)
        keep = (after / now) ** 2
        x = denoised + keep * (x - denoised)
        if after > 0:
            x = x + after * math.sqrt(1.0 - keep) * noise(step)
    return x


def heun(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Deterministic second-order solver (Karras et al. 2022, algorithm 1): two calls a step."""
    for step, (now, after) in enumerate(_pairs(sigmas)):
        slope = (x - _evaluate(denoiser, x, now, step, callback)) / now
        moved = x + (after - now) * slope
        if after > 0:
            second = (moved - denoiser(moved, _levels(moved, after))) / after
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
    for step, (now, after) in enumerate(_pairs(sigmas, repeating=True)):
        denoised = _evaluate(denoiser, x, now, step, callback)
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
    return _multistep(denoiser, x, sigmas, noise, callback, churn=0.0)


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
    return _multistep(denoiser, x, sigmas, noise, callback, churn=1.0)


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
    return _ancestral_2s(denoiser, x, sigmas, noise, callback)


def ancestral_ascent(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """`dpm_solver_pp_2s_ancestral` down to `ASCENT`, then uphill to a maximum of the density.

    As D − x = σ² ∇ln p_σ, to put D(x; σ) in the place of x is a step of gradient ascent on the
    density at the width σ, and to lower σ on the way takes the summit from coarse to fine
    (Kadkhodaie and Simoncelli 2021, "Stochastic Solutions for Linear Inverse Problems using the
    Prior Implicit in a Denoiser", algorithm 1, here with whole steps, no noise and a given σ).
    Conformers are minima of the energy, maxima of the density: which one is decided by the noise
    above `ASCENT`; what a sampler adds or keeps below it only leaves soft torsions beside them. One
    call a step there, two above.

    Where levels rise again after a part of the ascent, noise of the next one is added to where it
    has led, and the climb goes on from there: jumps from summit to neighbouring summit (as of Wales
    and Doye 1997, "Global Optimization by Basin-Hopping and the Lowest Energy Structures of
    Lennard-Jones Clusters", with no energy to refuse one by; Xu et al. 2023, "Restart Sampling for
    Improving Generative Processes", go back up to sample). The noise being lower than at the foot,
    summits that were one from there are told apart, and what steps at high noise have got wrong is
    put right.
    """
    return _ancestral_2s(denoiser, x, sigmas, noise, callback, ascent=ASCENT)


def dpm_solver_pp_2m_ascent(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """`dpm_solver_pp_2m` to `FLOW_ASCENT`, uphill from there; one call a level."""
    return _multistep(denoiser, x, sigmas, noise, callback, churn=0.0, ascent=FLOW_ASCENT)


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
}


def network_calls(sampler: str, levels: int, climbs: int = 1) -> int:
    """Denoiser calls of `sampler` on so many noise levels (0 not counted) of its own grid.

    Those that `climbs` add to the grids of `ancestral_ascent` and `ddim` are counted, too."""
    if sampler == "dpm_solver_pp_2s_ancestral":
        return 2 * levels
    if sampler == "ancestral_ascent":
        return levels + levels_above_ascent(levels) + (climbs - 1) * LEVELS_AGAIN
    if sampler == "ddim":
        return levels + climbs - 1
    return 2 * levels - 1 if sampler == "heun" else levels


def advance(denoiser: Denoiser, x: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """Positions (B, N, 3) at sigmas[-1], which need not be 0, from `x` at sigmas[0].

    Deterministic, by DPM-Solver++(2M): a part of the way of `dpm_solver_pp_2m`.
    """
    if float(sigmas[-1]) == 0:
        return _multistep(denoiser, x, sigmas, _no_noise, None, churn=0.0)
    return _multistep(denoiser, x, [*sigmas, 0.0], _no_noise, None, churn=0.0, stop=len(sigmas) - 1)


def _no_noise(step: int) -> torch.Tensor:
    raise AssertionError("a deterministic sampler draws nothing")


def _multistep(
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
    for step, (now, after) in enumerate(_pairs(sigmas)):
        if step == stop:
            break
        denoised = _evaluate(denoiser, x, now, step, callback)
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


def _ancestral_2s(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    callback: Callback | None,
    ascent: float = 0.0,
) -> torch.Tensor:
    """Uphill from the level `ascent` on."""
    for step, (now, after) in enumerate(_pairs(sigmas, rising_below=ascent)):
        denoised = _evaluate(denoiser, x, now, step, callback)
        if now <= ascent:
            x = denoised + after * noise(step) if after > now else denoised
            continue
        between = after if after > 0 else LAST_MIDPOINT * now
        middle = denoised + (between / now) * (x - denoised)
        ahead = denoiser(middle, _levels(middle, between))
        below = (after / now) ** 2  # of the noise in `x`, that which is left at σ_s²/σ_t
        x = ahead + below * (x - ahead)
        if after > 0:
            x = x + after * math.sqrt(1.0 - below) * noise(step)
    return x


def _pairs(
    sigmas: Sequence[float], rising_below: float = 0.0, repeating: bool = False
) -> list[tuple[float, float]]:
    """Each level with the next; up to `rising_below` they may also rise, or else repeat."""
    levels = [float(s) for s in sigmas]
    pairs = list(zip(levels, levels[1:], strict=False))
    wrong = [
        (now, after)
        for now, after in pairs
        if not (now > after or 0 < after <= rising_below or (repeating and now == after > 0))
    ]
    if not pairs or levels[-1] != 0 or wrong:
        raise ValueError("noise levels must decrease strictly and end in 0")
    return pairs


def _evaluate(
    denoiser: Denoiser, x: torch.Tensor, sigma: float, step: int, callback: Callback | None
) -> torch.Tensor:
    denoised = denoiser(x, _levels(x, sigma))
    if callback is not None:
        callback(step, sigma, x, denoised)
    return denoised


def _levels(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.full((x.shape[0],), sigma, dtype=x.dtype, device=x.device)
