"""Training batches: a weighted mixture of shards, bucketed by size.

Every batch is a function of (seed, step) alone, so a resumed run sees exactly the batches an
uninterrupted one would have seen, and batches can be prepared ahead in threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from rdgeodiff.data.shards import Shard
from rdgeodiff.diffusion.objectives import draw_sigmas
from rdgeodiff.graph import MolBatch

PAD_STEP = 4  # molecules are padded to the next multiple


@dataclass
class TrainingBatch:
    """Graphs, clean positions (B, N, 3) in Å, standard normal noise, σ (B,) in Å and the number of
    the shard (B,) each molecule is of, 0 where there are no shards."""

    graphs: MolBatch
    clean: torch.Tensor
    noise: torch.Tensor
    sigma: torch.Tensor
    shard: torch.Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        """The same batch on `device`."""
        return TrainingBatch(
            self.graphs.to(device),
            *(
                t.to(device, non_blocking=True)
                for t in (self.clean, self.noise, self.sigma, self.shard)
            ),
        )


class Mixture:
    """Draws batches from weighted shards.

    A shard's weight is its share of the training samples; inside a shard all molecules are equally
    likely. So are the conformers of a molecule, or they follow Boltzmann's law where a temperature
    is given and the shard knows their energies.

    Args:
        shards: what to draw from.
        weights: one positive number a shard.
        pair_budget: padded atom pairs in a batch, which sets the number of molecules in it.
        max_atoms: larger molecules are left out (`left_out` counts them).
        seed: of the whole run.
        log_mean, log_std: of ln σ.
        floors: lowest σ in Å a shard is good for, one a shard; 0 for all. Geometries of a cheap
            method still tell how a molecule folds where the noise hides what is wrong with their
            bonds (Daras et al. 2025, "Ambient Diffusion Omni").
        temperatures: R T in kcal/mol, one a shard; 0 (by default) for conformers that are equally
            likely.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        weights: Sequence[float],
        *,
        pair_budget: int = 40_000,
        max_atoms: int = 96,
        seed: int = 0,
        log_mean: float = -0.7,
        log_std: float = 1.6,
        floors: Sequence[float] | None = None,
        temperatures: Sequence[float] | None = None,
    ) -> None:
        if len(shards) != len(weights) or not shards or min(weights) <= 0:
            raise ValueError("a mixture needs at least one shard and a positive weight for each")
        if floors is not None and len(floors) != len(shards):
            raise ValueError("a mixture needs one lowest noise level for each shard")
        if temperatures is not None and len(temperatures) != len(shards):
            raise ValueError("a mixture needs one temperature for each shard")
        self._shards = list(shards)
        self._seed = seed
        self._log_mean, self._log_std = log_mean, log_std
        self._floors = np.asarray(floors if floors is not None else [0.0] * len(shards), np.float32)
        self._temperatures = list(temperatures or [0.0] * len(shards))
        atoms = np.concatenate([s.n_atoms for s in shards]).astype(int)
        source = np.repeat(np.arange(len(shards)), [len(s) for s in shards])
        local = np.concatenate([np.arange(len(s)) for s in shards])
        share = np.asarray(weights, float) / np.sum(weights) / [len(s) for s in shards]
        fits = (atoms <= max_atoms) & (atoms > 1)
        self.left_out = int((~fits).sum())
        pads = -(-atoms // PAD_STEP) * PAD_STEP
        self._buckets: list[_Bucket] = []
        for pad in np.unique(pads[fits]):
            inside = np.flatnonzero(fits & (pads == pad))
            size = int(np.clip(pair_budget // pad**2, 4, 256))
            mass = share[source[inside]]
            self._buckets.append(
                _Bucket(
                    int(pad),
                    size,
                    source[inside],
                    local[inside],
                    np.cumsum(mass / mass.sum()),
                    mass.sum(),
                )
            )
        per_batch = np.array([b.mass / b.size for b in self._buckets])
        self._bucket_cdf = np.cumsum(per_batch / per_batch.sum())
        # One width of the stereo table for all batches keeps the number of tensor shapes small.
        self._pad_centers = max(
            1,
            max(int(s.n_centers[s.n_atoms <= max_atoms].max(initial=0)) for s in shards),
        )

    def batch(self, step: int) -> TrainingBatch:
        """The batch of training step `step`."""
        rng = np.random.default_rng([self._seed, step])
        bucket = self._buckets[int(np.searchsorted(self._bucket_cdf, rng.random(), side="right"))]
        rows = np.searchsorted(bucket.cdf, rng.random(bucket.size), side="right")
        rows = np.minimum(rows, len(bucket.cdf) - 1)
        graphs, clean = [], np.zeros((bucket.size, bucket.pad, 3), np.float32)
        floors = torch.from_numpy(self._floors[bucket.source[rows]])
        for k, row in enumerate(rows):
            shard, molecule = self._shards[bucket.source[row]], int(bucket.local[row])
            graphs.append(shard.graph(molecule))
            which = self._conformer(int(bucket.source[row]), molecule, rng)
            clean[k, : graphs[-1].n_atoms] = shard.conformer(molecule, which)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return TrainingBatch(
            MolBatch.collate(graphs, pad_atoms=bucket.pad, pad_centers=self._pad_centers),
            torch.from_numpy(clean),
            torch.randn(clean.shape, generator=generator),
            draw_sigmas(
                bucket.size,
                generator,
                log_mean=self._log_mean,
                log_std=self._log_std,
                floors=floors,
            ),
            torch.from_numpy(bucket.source[rows]),
        )

    def _conformer(self, source: int, molecule: int, rng: np.random.Generator) -> int:
        shard, temperature = self._shards[source], self._temperatures[source]
        energies = shard.energies(molecule) if temperature > 0 else None
        if energies is None:
            return int(rng.integers(shard.n_confs[molecule]))
        reached = np.cumsum(np.exp(-energies / temperature))
        return int(np.searchsorted(reached, rng.random() * reached[-1], side="right"))

    def stream(self, start: int, stop: int, ahead: int = 4) -> Iterator[TrainingBatch]:
        """Batches of steps start..stop-1, prepared `ahead` in threads."""
        with ThreadPoolExecutor(max_workers=min(ahead, 8)) as pool:
            queue: list[Future[TrainingBatch]] = []
            for step in range(start, stop + ahead):
                if step < stop:
                    queue.append(pool.submit(self.batch, step))
                if step >= start + ahead or step >= stop:
                    if not queue:
                        return
                    yield queue.pop(0).result()


@dataclass(frozen=True)
class _Bucket:
    pad: int
    size: int
    source: np.ndarray
    local: np.ndarray
    cdf: np.ndarray
    mass: float
