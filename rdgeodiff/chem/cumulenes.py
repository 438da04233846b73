"""Allenes: the two ends of C=C=C stand at right angles.

RDKit keeps no stereo of cumulated double bonds and its bounds do not see the twist, so nothing else
would notice a flat allene. Turning one end about the straight axis moves no bond and no angle; that
mends a sample, and what cannot be turned (a ring) is checked only.
"""

from __future__ import annotations

import numpy as np
from rdkit import Chem

_ALLENE = "[C;D3](-[*])=[C;D2]=[C;D3]"
LARGEST_COSINE = 0.5  # of the dihedral angle between the ends: 30° off the right angle


class Allenes:
    """The allenes of one molecule.

    Args:
        mol: sanitised Mol with explicit hydrogens.
    """

    def __init__(self, mol: Chem.Mol) -> None:
        self._rows: list[tuple[int, int, int, int, list[int]]] = []
        for begin, first, middle, end in mol.GetSubstructMatches(Chem.MolFromSmarts(_ALLENE)):
            others = [n.GetIdx() for n in mol.GetAtomWithIdx(end).GetNeighbors()]
            last = next(k for k in others if k != middle)
            if any(row[1] in (begin, end) and row[2] in (begin, end) for row in self._rows):
                continue
            self._rows.append((first, begin, end, last, _beyond(mol, middle, end)))

    def mend(self, positions: np.ndarray) -> np.ndarray:
        """(N, 3) positions in Å with every flat allene outside rings turned to a right angle."""
        for first, begin, end, last, side in self._rows:
            cosine, sine, axis = _twist(positions, first, begin, end, last)
            if abs(cosine) <= LARGEST_COSINE or not side:
                continue
            angle = np.arctan2(sine, cosine)
            turn = (np.pi / 2 if sine >= 0 else -np.pi / 2) - angle
            positions = positions.copy()
            arms = positions[side] - positions[end]
            # Rodrigues' formula about the straight axis.
            positions[side] = (
                positions[end]
                + arms * np.cos(turn)
                + np.cross(axis, arms) * np.sin(turn)
                + np.outer(arms @ axis, axis) * (1 - np.cos(turn))
            )
        return positions

    def any_flat(self, positions: np.ndarray) -> bool:
        """An allene lies more than 30° off the right angle."""
        return any(abs(_twist(positions, *row[:4])[0]) > LARGEST_COSINE for row in self._rows)


def _beyond(mol: Chem.Mol, middle: int, end: int) -> list[int]:
    """Atoms on the far side of middle=end, or none where a ring closes around it."""
    if mol.GetBondBetweenAtoms(middle, end).IsInRing():
        return []
    seen, waiting = {middle, end}, [end]
    while waiting:
        for neighbor in mol.GetAtomWithIdx(waiting.pop()).GetNeighbors():
            if neighbor.GetIdx() not in seen:
                seen.add(neighbor.GetIdx())
                waiting.append(neighbor.GetIdx())
    return sorted(seen - {middle, end})


def _twist(
    positions: np.ndarray, first: int, begin: int, end: int, last: int
) -> tuple[float, float, np.ndarray]:
    """Cosine and sine of the dihedral angle first-begin···end-last, and the unit axis."""
    axis = positions[end] - positions[begin]
    axis = axis / max(np.linalg.norm(axis), 1e-9)
    one, other = positions[first] - positions[begin], positions[last] - positions[end]
    one, other = one - (one @ axis) * axis, other - (other @ axis) * axis
    size = max(np.linalg.norm(one) * np.linalg.norm(other), 1e-9)
    return float(one @ other / size), float(np.cross(one, other) @ axis / size), axis
