"""Which of more conformers than are wanted stand for all of them.

Independent samples repeat what is likely and miss what is rare. Of a pool of them those are taken
that leave the smallest mean distance from a conformer of the pool to the nearest one taken, each
weighted by exp(-E/RT): weighted k-medoids, found greedily, which is within 1 - 1/e of the best
(Nemhauser, Wolsey and Fisher 1978). No threshold has to fit the size of the molecule, and of
one pool the first n of a longer choice are the choice of n.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from rdkit import Chem, rdBase

from rdgeodiff.chem.rmsd import rmsds

_PAIRS = 20_000  # distances computed together


def representatives(
    fragments: Sequence[tuple[Chem.Mol, np.ndarray]],
    energies: np.ndarray | None = None,
    width: float = 2.0,
) -> list[int]:
    """Indices of all C conformers, those first that together stand for the rest.

    Args:
        fragments: at least one; Mol with explicit hydrogens, and positions (C, N, 3) in Å. How
            fragments lie to each other does not count.
        energies: (C,) in kcal/mol; those that are not finite weigh nothing. None, or none of them
            finite, gives all the same weight.
        width: RT in kcal/mol; well above that of room temperature, as a force field's energies
            are not exact.
    """
    count = len(fragments[0][1])
    if count < 2:
        return list(range(count))
    weights = np.ones(count)
    known = np.zeros(0, bool) if energies is None else np.isfinite(energies)
    if energies is not None and known.any():
        weights = np.where(known, np.exp((energies[known].min() - energies) / width), 0.0)
    # Over the heavy atoms of all fragments, each superposed on its own.
    heavy = [max(mol.GetNumHeavyAtoms(), 1) for mol, _ in fragments]
    squares = sum(
        n * _distances(mol, positions) ** 2
        for n, (mol, positions) in zip(heavy, fragments, strict=True)
    )
    return _medoids(np.sqrt(squares / sum(heavy)), weights)


def _distances(mol: Chem.Mol, positions: np.ndarray) -> np.ndarray:
    """(C, C) RMSD in Å of heavy atoms, over symmetric atom orders."""
    count, start = len(positions), 0
    apart = np.zeros((count, count), np.float32)
    while start < count:
        stop = min(count, start + max(1, _PAIRS // (count - start)))
        with rdBase.BlockLogs():
            block = rmsds(mol, positions[start:stop], positions[start:])
        # Each pair is superposed once.
        apart[start:stop, start:] = block
        apart[start:, start:stop] = block.T
        start = stop
    return apart


def _medoids(apart: np.ndarray, weights: np.ndarray) -> list[int]:
    """All indices in the order in which they lessen Σ_i w_i min_j d_ij most; ties by index."""
    nearest = np.full(len(apart), apart.max())

    def gain(k: int) -> float:
        return float(weights @ np.maximum(nearest - apart[:, k], 0.0))

    # What one more conformer gains only falls as others are taken, so that a gain computed before
    # bounds it from above (Minoux 1978).
    bounds = [(-gain(k), k) for k in range(len(apart))]
    heapq.heapify(bounds)
    order: list[int] = []
    while bounds:
        _, k = heapq.heappop(bounds)
        now = (-gain(k), k)
        if bounds and now > bounds[0]:
            heapq.heappush(bounds, now)
            continue
        order.append(k)
        nearest = np.minimum(nearest, apart[:, k])
    return order
