"""A mixture of shards that lies on the accelerator as a whole.

An accelerator sees thousands of molecules a second, more than one processor core can lay out. Laid
out once, all molecules of a size take a few megabytes there, and a batch is a choice of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rdgeodiff.data.shards import Shard
from rdgeodiff.graph import MolBatch
from rdgeodiff.training.batches import Bucket, Mixture


@dataclass(frozen=True)
class _Laid:
    graphs: MolBatch
    conformers: torch.Tensor  # (C, N, 3) in Å


class ResidentMixture(Mixture):
    """Draws the batches of `Mixture` from arrays on one device.

    Args:
        shards, weights, settings: as of `Mixture`; the same give the same batches.
        device: where they lie.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        weights: Sequence[float],
        *,
        device: torch.device,
        **settings: Any,
    ) -> None:
        super().__init__(shards, weights, **settings)
        self._device = device
        self._laid = [self._lay(bucket) for bucket in self.buckets]

    def _lay(self, bucket: Bucket) -> _Laid:
        graphs = []
        clean = np.zeros((len(bucket.conformers), bucket.pad, 3), np.float32)
        for k, (source, local) in enumerate(zip(bucket.source, bucket.local, strict=True)):
            shard, molecule = self._shards[source], int(local)
            graphs.append(shard.graph(molecule))
            own = shard.conformers(molecule)
            clean[bucket.first[k] : bucket.first[k + 1], : own.shape[1]] = own
        laid = self.collate(graphs, bucket.pad).to(self._device)
        return _Laid(laid, torch.from_numpy(clean).to(self._device))

    def _gather(
        self, chosen: int, rows: np.ndarray, drawn: np.ndarray
    ) -> tuple[MolBatch, torch.Tensor]:
        laid = self._laid[chosen]
        index = torch.from_numpy(rows).to(self._device, non_blocking=True)
        which = torch.from_numpy(drawn).to(self._device, non_blocking=True)
        return laid.graphs.rows(index), laid.conformers[which]


def mixture_on(
    device: torch.device, shards: Sequence[Shard], weights: Sequence[float], **settings: Any
) -> Mixture:
    """A mixture for training on `device`: resident on an accelerator."""
    if device.type == "cuda":
        return ResidentMixture(shards, weights, device=device, **settings)
    return Mixture(shards, weights, **settings)
