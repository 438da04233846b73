"""GeoDiff-C: noise on distances, carried to coordinates by the chain rule.

The noise of a pair is (d − d⁰)/σ, with d its noisy and d⁰ its clean length, and the noise of an
atom is what its pairs push it by along their own directions, Σ_j (d_ij − d⁰_ij)/σ · (x_i − x_j)/d.
Distances know nothing of orientation, so nothing needs to be superposed, and nothing of handedness.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from rdgeodiff.geometry import center
from rdgeodiff.graph import MolBatch

GLOBAL_WEIGHT, LOCAL_WEIGHT = 2.0, 5.0


class LossTerms(NamedTuple):
    """Loss per atom (N,) and the four coordinate fields (N, 3) it compares."""

    of_global: torch.Tensor
    of_local: torch.Tensor
    field_global: torch.Tensor
    target_global: torch.Tensor
    field_local: torch.Tensor
    target_local: torch.Tensor

    @property
    def per_atom(self) -> torch.Tensor:
        """(N,), both branches."""
        return self.of_global + self.of_local


def edge_terms(scores: Any, x: torch.Tensor, sigma: torch.Tensor) -> LossTerms:
    """Loss of edge scores as the original release has it.

    Args:
        scores: the network's, at the noisy positions; see `rdgeodiff.nn.dual_encoder`.
        x: (N, 3) clean positions in Å, in any orientation.
        sigma: (N,) noise level of each atom's molecule in Å.
    """
    source, target = scores.edges.index
    clean = (x[source] - x[target]).norm(dim=-1)
    wanted = (clean - scores.edges.length) / sigma[source]
    field_global, target_global = scores.global_field(), scores.global_field(wanted)
    field_local, target_local = scores.local_field(), scores.local_field(wanted)
    return LossTerms(
        GLOBAL_WEIGHT * (field_global - target_global).square().sum(-1),
        LOCAL_WEIGHT * (field_local - target_local).square().sum(-1),
        field_global,
        target_global,
        field_local,
        target_local,
    )


def chain_rule_clean(batch: MolBatch, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """x − σ ε̂ (B, N, 3) in Å, with ε̂ = 2/N times the chain-rule noise over all pairs of a molecule.

    This is the clean structure a denoiser learns under GeoDiff-C; the same samplers serve. Like in
    the original a pair counts in both directions, hence 2. Dividing by N brings ε̂ to the size of ε:
    it is 2/3 of it on average and twice of it where a molecule is merely swollen. (With 1/N this is
    one step of stress majorisation; up to 2/N such a step still lowers the stress.)

    Args:
        batch: graphs.
        x: (B, N, 3) noisy positions.
        clean: (B, N, 3) clean positions, in any orientation.
    """
    distance = _distances(x)
    # A pair on one spot has no direction and pushes nowhere; padding has no pairs.
    pairs = batch.mask.unsqueeze(1) & batch.mask.unsqueeze(2) & (distance > 0)
    push = torch.where(pairs, 1.0 - _distances(clean) / distance.clamp(min=1e-6), 0.0)
    noise = push.sum(-1, keepdim=True) * x - push @ x
    return center(x - 2.0 / batch.n_atoms.view(-1, 1, 1) * noise, batch.mask)


def _distances(x: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
