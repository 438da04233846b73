"""Is a finished conformer plausible? Bond lengths, angles, flat groups and contacts.

The limits are wide on purpose. They tell a broken structure from a whole one, as PoseBusters does,
and leave quality to the model: no reference conformer the model was validated on is refused.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom

BOND_TOLERANCE = 0.25  # of the bounds RDKit's distance geometry sets for a bond
ANGLE_TOLERANCE = 0.30  # of its bounds for the two ends of an angle
LIGANDS = 1.2  # sums of covalent radii between two ligands of a crowded atom; an octahedron has 1.4
COVALENT_TOLERANCE = 0.30  # of a sum of covalent radii, where RDKit has no bounds
# Smallest allowed distance as a share of the sum of van der Waals radii.
CONTACT = 0.62
CONTACT_HEAVY = 0.70  # two heavy atoms more than four bonds apart
CONTACT_THREE_BONDS = 0.60
CONTACT_POLAR_HYDROGEN = 0.50  # H with N, O, F, P, S or a halogen: hydrogen bonds are short
FLATNESS = 0.25  # Å an atom of an aromatic ring may lie off the ring's plane
PYRAMIDALITY = 0.35  # Å a trigonal carbon may lie off the plane of its neighbours
TWIST = 0.55  # |cos| between a three-membered ring's bond and the line of the opposite substituents
CONTACT_CHALCOGEN = 0.55  # S with N, O, F, S or Cl: lone pairs reach into its σ-hole

_ACCEPTORS = (7, 8, 9, 15, 16, 17, 35, 53)
_CHALCOGEN_DONORS, _CHALCOGEN_ACCEPTORS = (16,), (7, 8, 9, 16, 17)


class Fault(StrEnum):
    """What is wrong with a conformer."""

    NONFINITE = "NONFINITE"
    BOND_LENGTH = "BOND_LENGTH"
    BOND_ANGLE = "BOND_ANGLE"
    FLATNESS = "FLATNESS"
    CLASH = "CLASH"


class Plausibility:
    """The limits of one molecule, computed once and applied to any number of conformers.

    Args:
        mol: sanitised Mol whose atoms are the rows of the positions.
    """

    def __init__(self, mol: Chem.Mol) -> None:
        n = mol.GetNumAtoms()
        self._i, self._j = np.triu_indices(n, 1)
        apart = Chem.GetDistanceMatrix(mol)[self._i, self._j]
        bounds = _bounds(mol)
        lower, upper = bounds[self._j, self._i], bounds[self._i, self._j]
        numbers = np.array([a.GetAtomicNum() for a in mol.GetAtoms()])
        table = Chem.GetPeriodicTable()
        covalent = np.array([table.GetRcovalent(int(z)) for z in numbers])
        vdw = np.array([table.GetRvdw(int(z)) for z in numbers])

        self._low = np.zeros(len(self._i))
        self._high = np.full(len(self._i), np.inf)
        bonds, angles = apart == 1, apart == 2
        self._limit(bonds, lower, upper, BOND_TOLERANCE)
        # Distance geometry fills in nonsense, or nothing, for atoms without force field types.
        rest = covalent[self._i] + covalent[self._j]
        missing = bonds & ~((lower > 0.5 * rest) & (upper < 1.5 * rest))
        self._limit(missing, rest, rest, COVALENT_TOLERANCE)
        known = angles & (lower > 0.5) & (upper < 10.0)
        self._limit(known, lower, upper, ANGLE_TOLERANCE)
        # Those bounds do not know five neighbours and more, and pass ligands a bond's length apart.
        floor = np.where(_crowded(mol)[self._i, self._j], LIGANDS, 1.0) * rest
        self._low[angles] = np.maximum(self._low, floor)[angles]
        contact = vdw[self._i] + vdw[self._j]
        share = np.full(len(self._i), CONTACT)
        first, second = numbers[self._i], numbers[self._j]
        share[(apart > 4) & (first > 1) & (second > 1)] = CONTACT_HEAVY
        share[_between(first, second, (1,), _ACCEPTORS)] = CONTACT_POLAR_HYDROGEN
        share[_between(first, second, _CHALCOGEN_DONORS, _CHALCOGEN_ACCEPTORS)] = CONTACT_CHALCOGEN
        share[apart == 3] = CONTACT_THREE_BONDS
        far = apart > 2
        self._low[far] = (share * contact)[far]
        self._rings = _aromatic_rings(mol)
        self._trigonal = _trigonal_carbons(mol)
        self._crossings = _crossings(mol)
        self._kinds = ((Fault.BOND_LENGTH, bonds), (Fault.BOND_ANGLE, angles), (Fault.CLASH, far))

    def cause(self, positions: np.ndarray) -> Fault | None:
        """The first thing wrong with (N, 3) positions in Å, or None."""
        return self.causes(positions[None])[0]

    def causes(self, positions: np.ndarray) -> list[Fault | None]:
        """`cause` for each of (C, N, 3) positions."""
        found: list[Fault | None] = [None] * len(positions)
        for k, conformer in enumerate(positions):
            if not np.isfinite(conformer).all():
                found[k] = Fault.NONFINITE
                continue
            distances = np.linalg.norm(conformer[self._i] - conformer[self._j], axis=-1)
            wrong = (distances < self._low) | (distances > self._high)
            if wrong.any():
                found[k] = next(fault for fault, pairs in self._kinds if (wrong & pairs).any())
            elif self._is_twisted(conformer):
                found[k] = Fault.BOND_ANGLE
            elif self._is_bent(conformer):
                found[k] = Fault.FLATNESS
        return found

    def _is_twisted(self, conformer: np.ndarray) -> bool:
        if not len(self._crossings):
            return False
        a, b, x, y = (conformer[self._crossings[:, k]] for k in range(4))
        one, other = b - a, y - x
        lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        return bool((np.abs((one * other).sum(-1)) > TWIST * lengths).any())

    def _is_bent(self, conformer: np.ndarray) -> bool:
        for ring in self._rings:
            points = conformer[ring] - conformer[ring].mean(0)
            normal = np.linalg.svd(points)[2][2]
            if np.abs(points @ normal).max() > FLATNESS:
                return True
        if not len(self._trigonal):
            return False
        center, a, b, c = (conformer[self._trigonal[:, k]] for k in range(4))
        normals = np.cross(b - a, c - a)
        heights = np.abs(((center - a) * normals).sum(-1))
        return bool((heights > PYRAMIDALITY * np.linalg.norm(normals, axis=-1)).any())

    def _limit(
        self, pairs: np.ndarray, lower: np.ndarray, upper: np.ndarray, tolerance: float
    ) -> None:
        self._low[pairs] = lower[pairs] * (1.0 - tolerance)
        self._high[pairs] = upper[pairs] * (1.0 + tolerance)


def _crowded(mol: Chem.Mol) -> np.ndarray:
    """(N, N) bool: do two atoms share a neighbour that has five neighbours or more?"""
    bonded = Chem.GetAdjacencyMatrix(mol)
    return (bonded * (bonded.sum(0) > 4)) @ bonded > 0


def _aromatic_rings(mol: Chem.Mol) -> list[list[int]]:
    """Aromatic rings of five and six atoms."""
    return [
        list(ring)
        for ring in mol.GetRingInfo().AtomRings()
        if len(ring) in (5, 6) and all(mol.GetAtomWithIdx(k).GetIsAromatic() for k in ring)
    ]


def _crossings(mol: Chem.Mol) -> np.ndarray:
    """(T, 4) indices: two atoms of a three-membered ring, and the substituents of the third.

    The two pairs stand across each other. Angles alone, whose limits must leave room for such
    rings, pass a third atom whose substituents are turned into the ring's plane.
    """
    rows = []
    for ring in mol.GetRingInfo().AtomRings():
        for atom in (mol.GetAtomWithIdx(k) for k in ring if len(ring) == 3):
            pair = [k for k in ring if k != atom.GetIdx()]
            outside = [n.GetIdx() for n in atom.GetNeighbors() if n.GetIdx() not in ring]
            if len(outside) == 2:
                rows.append(pair + outside)
    return np.array(rows, int).reshape(-1, 4)


def _trigonal_carbons(mol: Chem.Mol) -> np.ndarray:
    """(T, 4) indices of sp² carbons and their three neighbours.

    Without those at which a small ring meets another one: GFN2 minima of cages have such carbons
    0.6 Å off the plane, as far as an sp³ carbon's.
    """
    rings = mol.GetRingInfo()
    rows = [
        [atom.GetIdx(), *(n.GetIdx() for n in atom.GetNeighbors())]
        for atom in mol.GetAtoms()
        if atom.GetAtomicNum() == 6
        and atom.GetDegree() == 3
        and atom.GetHybridization() == Chem.HybridizationType.SP2
        and atom.GetNumRadicalElectrons() == 0
        and atom.GetFormalCharge() == 0
        and not (
            all(bond.IsInRing() for bond in atom.GetBonds())
            and not atom.GetIsAromatic()
            and rings.MinAtomRingSize(atom.GetIdx()) < 5
        )
    ]
    return np.array(rows, int).reshape(-1, 4)


def _between(
    first: np.ndarray, second: np.ndarray, one: tuple[int, ...], other: tuple[int, ...]
) -> np.ndarray:
    """Pairs of atomic numbers with one member in `one` and the other in `other`."""
    return (np.isin(first, one) & np.isin(second, other)) | (
        np.isin(second, one) & np.isin(first, other)
    )


def _bounds(mol: Chem.Mol) -> np.ndarray:
    """RDKit's distance bounds in Å, upper triangle above; zeros where it cannot make them."""
    # Atoms without force field types are logged as warnings; they are dealt with by the caller.
    with rdBase.BlockLogs():
        try:
            return np.asarray(
                rdDistGeom.GetMoleculeBoundsMatrix(
                    mol, set15bounds=False, doTriangleSmoothing=False
                )
            )
        except (RuntimeError, ValueError):
            return np.zeros((mol.GetNumAtoms(),) * 2)
