"""Samplers that end on a maximum of the density, where `rdgeodiff.diffusion.samplers` draw from it.

Conformers are minima of the energy, maxima of the density. The signature is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.diffusion.schedule import ASCENT
from rdgeodiff.diffusion.solvers import Callback, Noise, ancestral_1s, ancestral_2s, multistep

FLOW_ASCENT = 0.6  # Å, the highest level from which `dpm_solver_pp_2m_ascent` climbs


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
    return ancestral_2s(denoiser, x, sigmas, noise, callback, ascent=ASCENT)


def dpm_solver_pp_2m_ascent(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """`dpm_solver_pp_2m` to `FLOW_ASCENT`, uphill from there; one call a level."""
    return multistep(denoiser, x, sigmas, noise, callback, churn=0.0, ascent=FLOW_ASCENT)


def euler_ancestral_ascent(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> torch.Tensor:
    """`ancestral_ascent` with one call a level above `ASCENT` in place of two.

    For networks distilled to take its steps there in one stride each. A level that comes once more
    is a climb of its own, from fresh noise.
    """
    return ancestral_1s(denoiser, x, sigmas, noise, callback, ascent=ASCENT)
