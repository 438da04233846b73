"""From a network's output to a predicted clean structure: the preconditioning.

With x = C⁰ + σ ε the denoiser is D(x; σ) = c_skip x + c_out F (Karras et al. 2022, eq. 7), so that
what the network predicts has unit variance at every σ. The noise of the paper follows as
ε = (x − D)/σ, and with it the mean μ_θ of its reverse kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from rdgeodiff.geometry import center
from rdgeodiff.graph import MolBatch

# A denoiser takes noisy centred positions (B, N, 3) and noise levels (B,), both in Å, and returns
# the expected clean positions (B, N, 3). Samplers know nothing else of a model.
Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Any network F(batch, x_in, base, scale, sigma) → (B, N, 3).
Field = Callable[..., torch.Tensor]


def sigma_data(n_atoms: torch.Tensor) -> torch.Tensor:
    """Root mean square coordinate in Å of a clean molecule of n atoms.

    Fitted to the training sets: 1.3 Å for 18 atoms, 2.4 Å for 43 (all atoms, centred).
    """
    return 0.36 * n_atoms.float().sqrt()


def denoise(field: Field, batch: MolBatch, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """D(x; σ): expected clean positions (B, N, 3) in Å, centred.

    Args:
        field: the network F.
        batch: graphs.
        x: (B, N, 3) noisy positions in Å; a centroid off the origin is removed.
        sigma: (B,) noise levels in Å.
    """
    x = center(x, batch.mask)
    base, scale, x_in = precondition(batch, x, sigma)
    return center(base + scale.view(-1, 1, 1) * field(batch, x_in, base, scale, sigma), batch.mask)


def precondition(
    batch: MolBatch, x: torch.Tensor, sigma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(c_skip x, c_out, c_in σ_data x): the network's base, scale (B,) and input, all in Å."""
    data = sigma_data(batch.n_atoms)
    total = sigma**2 + data**2
    base = (data**2 / total).view(-1, 1, 1) * x
    x_in = (data * total.rsqrt()).view(-1, 1, 1) * x
    return base, sigma * data * total.rsqrt(), x_in


def bind(field: Field, batch: MolBatch) -> Denoiser:
    """A `Denoiser` of one batch."""
    return lambda x, sigma: denoise(field, batch, x, sigma)
