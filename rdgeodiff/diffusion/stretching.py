"""Stretching molecules out while their basin is chosen.

Minima in the gas phase are folded: what a molecule cannot share with a solvent or a protein, its
arms share with each other. To draw from p(x) exp(λ Rg²(x)) instead of p(x), with the radius of
gyration Rg, the score gains λ ∇Rg², here of the predicted structure D as in diffusion posterior
sampling (Chung et al. 2023). It points away from the centre and grows with the distance from it, so
that D is multiplied. The factor is the same at all levels between two, where theory would let it
grow with σ²: it acts while torsions are chosen, and bursts neither what is still a blur nor bonds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rdgeodiff.diffusion.denoiser import Denoiser

HIGHEST_SIGMA = 8.0  # Å; above it every molecule is a blur round its centre
LOWEST_SIGMA = 0.9  # Å; below it bonds and angles settle, which would be stretched, too
_LEAST_AFTER = 0.45  # Å of noise at the next level, without which stretched bonds stay so


def stretch(denoiser: Denoiser, share: float, sigmas: Sequence[float]) -> Denoiser:
    """A denoiser whose predictions are larger, between `LOWEST_SIGMA` and `HIGHEST_SIGMA`.

    Args:
        denoiser: D(x, σ), centred.
        share: by so much of the distance atoms move away from the centre; 0 leaves `denoiser`.
        sigmas: the levels in Å that a sampler will visit. Of few, as distilled models have, the
            last above `LOWEST_SIGMA` may be too far from the next one.
    """
    if share == 0:
        return denoiser
    pairs = [(float(now), float(after)) for now, after in zip(sigmas, sigmas[1:], strict=False)]
    kept = {now for now, after in pairs if after < _LEAST_AFTER}
    mended = [now for now, _ in pairs if now > LOWEST_SIGMA and now not in kept]
    if not mended:
        return denoiser
    # Samplers look between two levels as well, and single precision moves the level itself.
    lowest = max(LOWEST_SIGMA, 0.999 * min(mended))

    def stretched(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        inside = (lowest < sigma) & (sigma < HIGHEST_SIGMA)
        return denoiser(x, sigma) * (1.0 + share * inside.view(-1, 1, 1))

    return stretched
