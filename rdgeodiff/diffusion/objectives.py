"""Training objectives.

GeoDiff-A (the paper's alignment approach): the clean structure is superposed on the noisy one
before the noise between them is taken as the target, so that the target is equivariant.
"""

from __future__ import annotations

import torch

from rdgeodiff.diffusion.denoiser import Field, precondition
from rdgeodiff.geometry import align, center
from rdgeodiff.graph import MolBatch


def draw_sigmas(
    count: int,
    generator: torch.Generator | None = None,
    *,
    log_mean: float = -0.7,
    log_std: float = 1.6,
    low: float = 0.002,
    high: float = 13.0,
) -> torch.Tensor:
    """(count,) log-normal noise levels in Å, clipped to the range of the schedule."""
    normal = torch.randn(count, generator=generator)
    return torch.exp(log_mean + log_std * normal).clamp(low, high)


def aligned_loss(
    field: Field, batch: MolBatch, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """GeoDiff-A loss (B,), one value a molecule: mean square error of F per coordinate.

    In terms of D this is the weight (σ² + σ_data²)/(σ σ_data)² of Karras et al. 2022, table 1.

    Args:
        field: the network F.
        batch: graphs.
        clean: (B, N, 3) reference conformers in Å.
        noise: (B, N, 3) standard normal.
        sigma: (B,) noise levels in Å.
    """
    x, clean = noisy_pair(batch, clean, noise, sigma)
    return field_error(field, batch, x, clean, sigma)


def field_error(
    field: Field, batch: MolBatch, x: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """Mean square error (B,) of F at noisy positions `x` whose clean structure is `clean`."""
    base, scale, x_in = precondition(batch, x, sigma)
    target = (clean - base) / scale.view(-1, 1, 1)
    predicted = center(field(batch, x_in, base, scale, sigma), batch.mask)
    error = (predicted - target).square().sum((1, 2))
    return error / (3.0 * batch.n_atoms)


def noisy_pair(
    batch: MolBatch, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred noisy positions and the clean ones superposed on them, both (B, N, 3)."""
    clean = center(clean, batch.mask)
    x = clean + sigma.view(-1, 1, 1) * center(noise, batch.mask)
    return x, align(clean, x)
