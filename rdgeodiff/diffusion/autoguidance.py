"""Guidance by a worse network: away from where too little learning leads.

Karras et al. 2024 ("Guiding a Diffusion Model with a Bad Version of Itself", eq. 5): a smaller and
less trained network errs where the better one errs, only further. Going on from its prediction
through the better one's, D + w (D − D_worse), leaves those errors behind: samples between two
basins become rare, at some cost of diversity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rdgeodiff.diffusion.denoiser import Denoiser


@dataclass(frozen=True)
class Guidance:
    """How strongly a worse network is left behind, where, and for whom.

    Attributes:
        weight: w, at least 0.
        sigma_min, sigma_max: Å; only between them. Above, nothing is decided yet; below, both
            networks see the same basin.
        atoms_none, atoms_full: molecules of up to the first number of atoms are not guided, those
            of at least the second by the full weight, those between in proportion. What is small
            has been learnt, and would only lose diversity.
    """

    weight: float = 1.0
    sigma_min: float = 0.15
    sigma_max: float = 4.0
    atoms_none: int = 0
    atoms_full: int = 0

    def __post_init__(self) -> None:
        numbers = (self.weight, self.sigma_min, self.sigma_max, self.atoms_none, self.atoms_full)
        if not all(type(v) in (int, float) and math.isfinite(v) and v >= 0 for v in numbers):
            raise ValueError("guidance: weight, noise levels and atoms must be numbers from 0 up")

    def weights(self, n_atoms: torch.Tensor) -> torch.Tensor:
        """(B,) weights of molecules of (B,) atoms."""
        span = max(self.atoms_full - self.atoms_none, 1)
        share = ((n_atoms - self.atoms_none).float() / span).clamp(0.0, 1.0)
        return self.weight * share


def guide_away(
    denoiser: Denoiser, worse: Denoiser, guidance: Guidance, n_atoms: torch.Tensor
) -> Denoiser:
    """`denoiser` led away from what `worse` predicts of the same positions.

    Args:
        denoiser, worse: of one batch.
        guidance: strength and range.
        n_atoms: (B,) atoms of its molecules.
    """
    weights = guidance.weights(n_atoms).view(-1, 1, 1)
    if not bool((weights > 0).any()):
        return denoiser

    def guided(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        denoised = denoiser(x, sigma)
        # A sampler's batch is at one level; a training batch is at many.
        inside = (guidance.sigma_min < sigma) & (sigma < guidance.sigma_max)
        if not bool(inside.any()):
            return denoised
        return denoised + weights * inside.view(-1, 1, 1) * (denoised - worse(x, sigma))

    return guided
