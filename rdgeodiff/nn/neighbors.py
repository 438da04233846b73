"""Which pairs of atoms exchange messages, and how sums over them are taken.

`DensePairs` holds every pair of small molecules as (B, N, N) arrays; `EdgePairs` holds only the
pairs that matter in large ones. Both give the same sums, because the envelope that fades a message
out towards the cutoff is part of the model and not of the path. There is no cap on neighbours: a
cap would break equivariance (the kept neighbours depend on atom order).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch

from rdgeodiff.graph import MolBatch, is_local, pair_features

try:
    from torch_cluster import radius_graph as _cluster_radius_graph
except ImportError:
    _cluster_radius_graph = None


class Pairs(Protocol):
    """Ordered pairs (i, j) of one batch; `...` is (B, N, N) or (E,)."""

    features: torch.Tensor  # (..., PAIR_DIM)

    def combine(self, at_i: torch.Tensor, at_j: torch.Tensor) -> torch.Tensor:
        """Sum (..., F) of two node arrays (B, N, F) over each pair."""

    def difference(self, x: torch.Tensor) -> torch.Tensor:
        """x_i − x_j, (..., 3)."""

    def envelope(self, distance: torch.Tensor) -> torch.Tensor:
        """Weight (...) of each pair from its `distance`; 0 for padding."""

    def weighted_sum(self, weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Σ_j weight_ij values_ij, (B, N, F)."""

    def outer_sum(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Σ_j weights_ij ⊗ values_ij, (B, N, K, C), of pair arrays (K, ...) and (..., C)."""

    def carried_sum(self, weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Σ_j weights_ijk v_jk, (B, N, K, C), of a pair array (K, ...) and v (B, N, K, C)."""


def cosine_envelope(distance: torch.Tensor, cutoff: float) -> torch.Tensor:
    """½(cos(πd/r) + 1) inside the cutoff r, 0 outside."""
    return 0.5 * (torch.cos(math.pi * (distance / cutoff).clamp(max=1.0)) + 1.0)


class DensePairs:
    """All pairs of a padded batch."""

    def __init__(self, batch: MolBatch, cutoff: float) -> None:
        self.cutoff = cutoff
        self.features = pair_features(batch.pair_codes)
        self._local = is_local(batch.pair_codes)
        valid = batch.mask.unsqueeze(2) & batch.mask.unsqueeze(1)
        diagonal = torch.eye(batch.mask.shape[1], dtype=torch.bool, device=valid.device)
        self._valid = valid & ~diagonal

    def combine(self, at_i: torch.Tensor, at_j: torch.Tensor) -> torch.Tensor:
        return at_i.unsqueeze(2) + at_j.unsqueeze(1)

    def difference(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(2) - x.unsqueeze(1)

    def envelope(self, distance: torch.Tensor) -> torch.Tensor:
        return cosine_envelope(distance, self.cutoff).masked_fill(self._local, 1.0) * self._valid

    def weighted_sum(self, weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return (weight.unsqueeze(-2).to(values.dtype) @ values).squeeze(-2)

    def outer_sum(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return weights.permute(1, 2, 0, 3) @ values

    def carried_sum(self, weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (weights @ v.permute(2, 0, 1, 3)).permute(1, 2, 0, 3)


class EdgePairs:
    """Pairs up to three bonds apart or closer than the cutoff, as an edge list.

    Args:
        batch: the molecules.
        x: (B, N, 3) positions in the units of the cutoff.
        cutoff: radius beyond which non-local pairs are left out.
        use_cluster: search neighbours with torch-cluster; default: where it is installed.
    """

    def __init__(
        self, batch: MolBatch, x: torch.Tensor, cutoff: float, use_cluster: bool | None = None
    ) -> None:
        self.cutoff = cutoff
        self._shape = batch.mask.shape
        near = _near_pairs(batch.mask, x, cutoff, use_cluster)
        keep = near | (is_local(batch.pair_codes) & batch.mask.unsqueeze(2))
        molecule, i, j = keep.nonzero(as_tuple=True)
        codes = batch.pair_codes[molecule, i, j]
        self.features = pair_features(codes)
        self._local = is_local(codes)
        self.i = molecule * self._shape[1] + i
        self.j = molecule * self._shape[1] + j

    def combine(self, at_i: torch.Tensor, at_j: torch.Tensor) -> torch.Tensor:
        return at_i.flatten(0, 1)[self.i] + at_j.flatten(0, 1)[self.j]

    def difference(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, 1)
        return flat[self.i] - flat[self.j]

    def envelope(self, distance: torch.Tensor) -> torch.Tensor:
        return cosine_envelope(distance, self.cutoff).masked_fill(self._local, 1.0)

    def weighted_sum(self, weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return self._sum(weight.unsqueeze(-1).to(values.dtype) * values)

    def outer_sum(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return self._sum(weights.mT.unsqueeze(-1) * values.unsqueeze(-2))

    def carried_sum(self, weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self._sum(weights.mT.unsqueeze(-1) * v.flatten(0, 1)[self.j])

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        """Of values (E, ...) over the second atoms of pairs: (B, N, ...)."""
        total = values.new_zeros(self._shape[0] * self._shape[1], *values.shape[1:])
        return total.index_add_(0, self.i, values).unflatten(0, self._shape)


def _near_pairs(
    mask: torch.Tensor, x: torch.Tensor, cutoff: float, use_cluster: bool | None
) -> torch.Tensor:
    """Bool (B, N, N): distinct real atoms of one molecule closer than `cutoff`."""
    if use_cluster is None:
        use_cluster = _cluster_radius_graph is not None
    if use_cluster:
        return _near_pairs_cluster(mask, x, cutoff)
    near = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") < cutoff
    diagonal = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return near & mask.unsqueeze(2) & mask.unsqueeze(1) & ~diagonal


def _near_pairs_cluster(mask: torch.Tensor, x: torch.Tensor, cutoff: float) -> torch.Tensor:
    if _cluster_radius_graph is None:
        raise ImportError("torch-cluster is not installed: pip install 'rdgeodiff[cluster]'")
    molecule, atom = mask.nonzero(as_tuple=True)
    # The library caps neighbours; the cap is set to the molecule's size so that it never bites.
    edges = _cluster_radius_graph(
        x[molecule, atom].contiguous(), cutoff, batch=molecule, max_num_neighbors=mask.shape[1]
    )
    near = torch.zeros(*mask.shape, mask.shape[1], dtype=torch.bool, device=mask.device)
    i, j = edges
    near[molecule[i], atom[i], atom[j]] = True
    return near | near.mT
