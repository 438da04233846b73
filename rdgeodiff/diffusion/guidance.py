"""Steering a denoiser towards the demanded handedness.

The network knows the parity of every centre, but at a centre whose noise has fallen the wrong way
it may settle on the mirror image. While there is still enough noise to repair the surroundings,
each wrong signed volume of the predicted structure is moved along its gradient to the value a
tetrahedral centre has; the next denoising steps mend bonds and angles.
"""

from __future__ import annotations

import torch

from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.geometry import center, neighbor_positions, signed_volumes, volume_gradient
from rdgeodiff.graph import MolBatch

HIGHEST_SIGMA = 3.0  # Å; above it the prediction is a blur without handedness
LOWEST_SIGMA = 0.05  # Å; below it too little noise is left to repair bonds
_ROUNDS = 8
_LONGEST = 0.6  # Å an atom may move for one centre in one round
_ROOM = 0.35  # part of the volume spanned by perpendicular arms that is asked for


def guide_stereo(denoiser: Denoiser, batch: MolBatch) -> Denoiser:
    """A denoiser whose predictions have every specified centre on its right side."""

    def guided(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        denoised = denoiser(x, sigma)
        level = float(sigma.max())
        if not LOWEST_SIGMA <= level <= HIGHEST_SIGMA:
            return denoised
        return center(mend_volumes(denoised, batch), batch.mask)

    return guided


def mend_volumes(x: torch.Tensor, batch: MolBatch) -> torch.Tensor:
    """Move the neighbours of wrong centres until the signed volumes are right.

    Newton steps along the volume's gradient, V(x) + ∇V·Δx = V*, as in SHAKE; right centres stay.
    """
    for _ in range(_ROUNDS):
        volume = signed_volumes(x, batch.centers) * batch.parities
        arms = neighbor_positions(x, batch.centers) - x.gather(
            1, batch.centers[..., :1].expand(-1, -1, 3)
        ).unsqueeze(2)
        # A lone pair stands at the centre itself, hence the floor on the length of an arm.
        lengths = arms.norm(dim=-1).clamp(min=0.5, max=2.0)
        wanted = _ROOM * lengths.prod(-1).pow(0.75)
        wrong = (batch.parities != 0) & (volume < 0.5 * wanted)
        if not bool(wrong.any()):
            return x
        gradient = volume_gradient(x, batch.centers) * batch.parities[..., None, None]
        size = gradient.square().sum((2, 3)).clamp(min=0.3)
        factor = torch.where(wrong, (wanted - volume) / size, torch.zeros_like(size))
        move = factor[..., None, None] * gradient
        # Shortened along its direction: clamping by coordinate would depend on orientation.
        move = move * (_LONGEST / move.norm(dim=-1, keepdim=True).clamp(min=_LONGEST))
        index = batch.centers[..., 1:].flatten(1, 2).unsqueeze(-1).expand(-1, -1, 3)
        x = x.scatter_add(1, index, move.flatten(1, 2).to(x.dtype))
    return x
