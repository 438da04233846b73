"""Which of many conformers are kept: each once, and as different from each other as can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.rmsd import rmsds

# CREST's thresholds (Pracht, Bohle and Grimme 2020) for two conformers that are the same.
SAME_ENERGY = 0.05  # kcal/mol
SAME_RMSD = 0.125  # Å, of the heavy atoms
KELVIN = 298.15
_GAS_CONSTANT = 0.0019872043  # kcal/mol/K


def distinct(mol: Chem.Mol, positions: Sequence[np.ndarray], energies: np.ndarray) -> list[int]:
    """Indices of conformers that are the same as none of lower energy, by rising energy.

    The same are two whose energies differ by less than SAME_ENERGY and whose places differ by less
    than SAME_RMSD: a hydroxyl group that is turned keeps its heavy atoms and changes the energy.
    """
    kept: list[int] = []
    for k in np.argsort(energies, kind="stable").tolist():
        close = [other for other in kept if energies[k] - energies[other] < SAME_ENERGY]
        near = rmsds(mol, [positions[k]], [positions[other] for other in close])
        if not (near < SAME_RMSD).any():
            kept.append(k)
    return kept


def spread(mol: Chem.Mol, positions: Sequence[np.ndarray]) -> list[int]:
    """All indices, 0 first, then always the one that is furthest from all before it."""
    if not len(positions):
        return []
    apart = rmsds(mol, positions, positions)
    order = [0]
    gaps = apart[0].copy()
    while len(order) < len(positions):
        gaps[order] = -1.0
        order.append(int(gaps.argmax()))
        gaps = np.minimum(gaps, apart[order[-1]])
    return order


def boltzmann_weights(energies: np.ndarray, kelvin: float = KELVIN) -> np.ndarray:
    """exp(-E/RT) of energies (C,) in kcal/mol, divided by its sum.

    Each conformer counts once: how many rotamers share it is not known.
    """
    if not len(energies):
        return np.zeros(0)
    factors = np.exp(-(energies - energies.min()) / (_GAS_CONSTANT * kelvin))
    return factors / factors.sum()
