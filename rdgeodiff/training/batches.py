"""Training batches: a weighted mixture of shards, bucketed by size.

Every batch is a function of (seed, step) alone, so a resumed run sees exactly the batches an
uninterrupted one would have seen, and batches can be prepared ahead in threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from rdgeodiff.data.shards import Shard
from rdgeodiff.diffusion.objectives import draw_sigmas
from rdgeodiff.graph import MolBatch, MolGraph

PAD_STEP = 4  # molecules are padded to the next multiple

_Made = TypeVar("_Made")


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
        max_atoms: larger molecules are left out (`left_out` counts them), and so are those without
            a conformer.
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
        known = np.concatenate([s.n_confs for s in shards]) > 0
        fits = (atoms <= max_atoms) & (atoms > 1) & known
        self.left_out = int((~fits).sum())
        pads = -(-atoms // PAD_STEP) * PAD_STEP
        self.buckets: list[Bucket] = []
        for pad in np.unique(pads[fits]):
            inside = np.flatnonzero(fits & (pads == pad))
            size = int(np.clip(pair_budget // pad**2, 4, max(256, pair_budget // 160)))
            mass = share[source[inside]]
            reached = [
                self._shares(int(s), int(m))
                for s, m in zip(source[inside], local[inside], strict=True)
            ]
            self.buckets.append(
                Bucket(
                    int(pad),
                    size,
                    source[inside],
                    local[inside],
                    np.cumsum(mass / mass.sum()),
                    mass.sum(),
                    # Molecule k's conformers share the unit from k to k + 1.
                    np.concatenate([k + r for k, r in enumerate(reached)]),
                    np.cumsum([0, *(len(r) for r in reached)]),
                )
            )
        per_batch = np.array([b.mass / b.size for b in self.buckets])
        self._bucket_cdf = np.cumsum(per_batch / per_batch.sum())
        # One width of the stereo table for all batches keeps the number of tensor shapes small.
        self._pad_centers = max(
            1,
            max(int(s.n_centers[s.n_atoms <= max_atoms].max(initial=0)) for s in shards),
        )

    def batch(self, step: int) -> TrainingBatch:
        """The batch of training step `step`."""
        rng = np.random.default_rng([self._seed, step])
        chosen = int(np.searchsorted(self._bucket_cdf, rng.random(), side="right"))
        bucket = self.buckets[chosen]
        rows = np.searchsorted(bucket.cdf, rng.random(bucket.size), side="right")
        rows = np.minimum(rows, len(bucket.cdf) - 1)
        drawn = np.searchsorted(bucket.conformers, rows + rng.random(bucket.size), side="right")
        drawn = np.clip(drawn, bucket.first[rows], bucket.first[rows + 1] - 1)
        graphs, clean = self._gather(chosen, rows, drawn)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        floors = torch.from_numpy(self._floors[bucket.source[rows]])
        return TrainingBatch(
            graphs,
            clean,
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

    def _gather(
        self, chosen: int, rows: np.ndarray, drawn: np.ndarray
    ) -> tuple[MolBatch, torch.Tensor]:
        """Graphs and clean positions of molecules `rows` of a bucket in conformers `drawn`."""
        bucket = self.buckets[chosen]
        graphs, clean = [], np.zeros((len(rows), bucket.pad, 3), np.float32)
        for k, (row, conformer) in enumerate(zip(rows, drawn, strict=True)):
            shard, molecule = self._shards[bucket.source[row]], int(bucket.local[row])
            graphs.append(shard.graph(molecule))
            which = int(conformer - bucket.first[row])
            clean[k, : graphs[-1].n_atoms] = shard.conformer(molecule, which)
        return self.collate(graphs, bucket.pad), torch.from_numpy(clean)

    def collate(self, graphs: Sequence[MolGraph], pad: int) -> MolBatch:
        """`graphs` of one bucket with the stereo table of all of them."""
        return MolBatch.collate(graphs, pad_atoms=pad, pad_centers=self._pad_centers)

    def _shares(self, source: int, molecule: int) -> np.ndarray:
        """(C,) cumulative probabilities of a molecule's conformers."""
        shard, temperature = self._shards[source], self._temperatures[source]
        energies = shard.energies(molecule) if temperature > 0 else None
        if energies is None:
            count = int(shard.n_confs[molecule])
            return np.arange(1, count + 1) / count
        reached = np.cumsum(np.exp(-energies / temperature))
        return reached / reached[-1]

    def stream(self, start: int, stop: int, ahead: int = 4) -> Iterator[TrainingBatch]:
        """Batches of steps start..stop-1, prepared `ahead` in threads."""
        return prefetched(self.batch, range(start, stop), ahead)


def prefetched(make: Callable[[int], _Made], steps: Iterable[int], ahead: int) -> Iterator[_Made]:
    """What `make` makes of each step, in order, prepared `ahead` in threads."""
    with ThreadPoolExecutor(max_workers=min(ahead, 8)) as pool:
        queue: deque[Future[_Made]] = deque()
        for step in steps:
            queue.append(pool.submit(make, step))
            if len(queue) > ahead:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()


@dataclass(frozen=True)
class Bucket:
    """Molecules that are padded to the same size.

    Attributes:
        pad: atoms they are padded to.
        size: molecules in a batch.
        source, local: (M,) number of each molecule's shard, and its own in it.
        cdf: (M,) cumulative probability of the molecules.
        mass: share of the samples.
        conformers: (C,) cumulative probability of the conformers, 1 a molecule.
        first: (M + 1,) where each molecule's conformers begin.
    """

    pad: int
    size: int
    source: np.ndarray
    local: np.ndarray
    cdf: np.ndarray
    mass: float
    conformers: np.ndarray
    first: np.ndarray
