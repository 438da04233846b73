"""Training objectives: what counts as the noise between a clean and a noisy structure.

* "aligned" is GeoDiff-A, the paper's alignment approach: the clean structure is superposed on the
  noisy one first, so that the target is equivariant.
* "chain_rule" is GeoDiff-C: the noise of distances, carried to coordinates (see `chain_rule`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rdgeodiff.diffusion.chain_rule import (
    GLOBAL_WEIGHT,
    LOCAL_WEIGHT,
    chain_rule_clean,
    edge_terms,
)
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
    floors: torch.Tensor | None = None,
) -> torch.Tensor:
    """(count,) log-normal noise levels in Å, clipped to the range of the schedule.

    Args:
        count: how many.
        generator: source of randomness; torch's own by default.
        log_mean, log_std: of ln σ.
        low, high: Å.
        floors: (count,) in Å; each level comes from the part of the distribution above its own.
    """
    normal = torch.randn(count, generator=generator)
    if floors is not None:
        cut = torch.special.ndtr((floors.log() - log_mean) / log_std)
        above = cut + (1.0 - cut) * torch.special.ndtr(normal)
        # At a floor of 0 nothing is cut, and the detour over Φ would only cost digits.
        normal = torch.where(cut > 0, torch.special.ndtri(above.clamp(max=1.0 - 1e-6)), normal)
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


def plain_pair(
    batch: MolBatch, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred noisy and clean positions, both (B, N, 3), the clean ones as they lie."""
    clean = center(clean, batch.mask)
    return clean + sigma.view(-1, 1, 1) * center(noise, batch.mask), clean


def noisy_pair(
    batch: MolBatch, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred noisy positions and the clean ones superposed on them, both (B, N, 3)."""
    x, clean = plain_pair(batch, clean, noise, sigma)
    return x, align(clean, x)


def chain_rule_pair(
    batch: MolBatch, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred noisy positions and what GeoDiff-C takes for the clean ones, both (B, N, 3)."""
    x, clean = plain_pair(batch, clean, noise, sigma)
    return x, chain_rule_clean(batch, x, clean)


# (batch, clean, noise, σ) → noisy positions and the clean structure to be learnt
Pairing = Callable[
    [MolBatch, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]
]
OBJECTIVES: dict[str, Pairing] = {"aligned": noisy_pair, "chain_rule": chain_rule_pair}


def edge_score_error(
    network: Callable[..., Any],
    graphs: Any,
    batch: MolBatch,
    x: torch.Tensor,
    clean: torch.Tensor,
    sigma: torch.Tensor,
    objective: str,
) -> torch.Tensor:
    """Loss (B,) of a network that scores edges, with the original's weights of its two branches.

    Under "chain_rule" each branch answers for its own edges, as in the original. Under "aligned"
    both together, and the local one alone where it acts alone (at high noise), are to give −ε.

    Args:
        network: network(graphs, x) → scores; see `rdgeodiff.nn.dual_encoder`.
        graphs: `batch` as the network reads it, without padding.
        batch: B molecules.
        x: (B, N, 3) noisy positions in Å.
        clean: (B, N, 3) clean ones; superposed on `x` for "aligned".
        sigma: (B,) noise levels in Å.
        objective: key of `OBJECTIVES`.
    """
    scores = network(graphs, x[batch.mask])
    level = sigma[graphs.molecule]
    if objective == "chain_rule":
        per_atom = edge_terms(scores, clean[batch.mask], level).per_atom
    else:
        target = (clean - x)[batch.mask] / level.unsqueeze(-1)
        local = scores.local_field()
        both = (local + scores.global_field() - target).square().sum(-1)
        per_atom = GLOBAL_WEIGHT * both + LOCAL_WEIGHT * (local - target).square().sum(-1)
    total = per_atom.new_zeros(len(batch)).index_add(0, graphs.molecule, per_atom)
    return total / batch.n_atoms
