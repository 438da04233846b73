"""Holding chosen atoms at given positions while the rest of a molecule is diffused around them.

The predicted clean structure D of the held atoms is replaced by their targets at every step. In a
stochastic sampler x then carries, for these atoms, the targets with exactly the noise of the step
(the bridge q(x_s | x_t, C⁰ = target)), which is what the network sees when it places the others; so
the fit is a part of the reverse diffusion and not a superposition after it.

The other atoms follow what the held ones are moved by: fully where they hang on one, in proportion
where they lie between two (the harmonic extension of the displacement over the bond graph).
Otherwise all strain would gather in the bonds at the border.
"""

from __future__ import annotations

import torch

from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.geometry import align, center
from rdgeodiff.graph import MolBatch


def hold_positions(
    denoiser: Denoiser, batch: MolBatch, held: torch.Tensor, targets: torch.Tensor
) -> Denoiser:
    """A denoiser whose predictions have the held atoms at their targets.

    The targets are moved as one rigid body, without reflection, onto the prediction of the step:
    where the molecule lies in space stays free, as it is for the network.

    Args:
        denoiser: D(x, σ) of `batch`.
        batch: B graphs of up to N atoms.
        held: (B, N) bool; a molecule without a held atom is left as it is.
        targets: (B, N, 3) positions in Å, read where `held` is true.
    """
    count = held.sum(1).clamp(min=1).view(-1, 1, 1)
    weight = held.unsqueeze(-1).to(targets.dtype)
    fixed = (targets - (targets * weight).sum(1, keepdim=True) / count) * weight

    def holding(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        denoised = denoiser(x, sigma)
        middle = (denoised * weight).sum(1, keepdim=True) / count
        placed = align(fixed, (denoised - middle) * weight) + middle
        moved = denoised + spread @ ((placed - denoised) * weight)
        return center(torch.where(held.unsqueeze(-1), placed, moved), batch.mask)

    if not bool(held.any()):
        return denoiser
    spread = _extension(batch, held)
    return holding


def _extension(batch: MolBatch, held: torch.Tensor) -> torch.Tensor:
    """(B, N, N) matrix that takes displacements of held atoms to those of all atoms.

    An atom that is not held gets the mean of its bonded neighbours' displacements, L_uu d_u = A_uh
    d_h with the Laplacian L of the bond graph; the small pull to zero keeps a fragment without held
    atoms in its place.
    """
    bonds = ((batch.pair_codes[..., 0] & 7) > 0).double()
    free = (~held).unsqueeze(-1)
    laplacian = torch.diag_embed(bonds.sum(-1) + 1e-4) - bonds
    one = torch.eye(bonds.shape[-1], dtype=bonds.dtype, device=bonds.device).expand_as(bonds)
    matrix = torch.where(free, laplacian, one)
    return torch.linalg.solve(matrix, torch.where(free, 0.0, one)).float()
