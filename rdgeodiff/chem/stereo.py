"""Specified stereochemistry of an RDKit Mol as tables a network and a checker can use.

A tetrahedral centre becomes an ordered tuple of neighbours whose signed volume must have a given
sign; a double bond becomes a quadruple of atoms that must be cis or trans; the axis of an
atropisomer becomes a quadruple whose dihedral angle must have a given sign. The network knows the
first two; an axis is left to checking and drawing again. RDKit has no stereochemistry of allenes
(it drops the tags when it reads them), so there is nothing of theirs to honour.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from rdkit import Chem

_TETRAHEDRAL = {
    Chem.ChiralType.CHI_TETRAHEDRAL_CW: -1,
    Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 1,
}
_AXIAL = {
    Chem.BondStereo.STEREOATROPCW: 1,
    Chem.BondStereo.STEREOATROPCCW: -1,
}
_CIS = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
_TRANS = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)


@dataclass(frozen=True)
class StereoTables:
    """What the Mol's tags and bond labels demand.

    Attributes:
        centers: (S, 5) int16 (centre, a, b, c, d); d is the centre where it has three neighbours.
        parities: (S,) int8 sign of (a-d)·((b-d)×(c-d)) demanded.
        double_bonds: (D, 4) int16 (substituent, begin, end, substituent).
        trans: (D,) bool, True where the two substituents lie on opposite sides.
        axes: (A, 4) int16 (neighbour, begin, end, neighbour) of atropisomers' bonds.
        twists: (A,) int8 sign of the dihedral angle demanded.
    """

    centers: np.ndarray
    parities: np.ndarray
    double_bonds: np.ndarray
    trans: np.ndarray
    axes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int16))
    twists: np.ndarray = field(default_factory=lambda: np.zeros((0,), np.int8))


def stereo_tables(mol: Chem.Mol) -> StereoTables:
    """Read all specified tetrahedral centres and double bonds of `mol` (explicit hydrogens)."""
    centers, parities = [], []
    for atom in mol.GetAtoms():
        sign = _TETRAHEDRAL.get(atom.GetChiralTag())
        neighbors = [b.GetOtherAtomIdx(atom.GetIdx()) for b in atom.GetBonds()]
        if sign is None or len(neighbors) not in (3, 4):
            continue
        if len(neighbors) == 3:
            # RDKit counts the missing fourth neighbour (a lone pair) as the last one.
            neighbors.append(atom.GetIdx())
        centers.append([atom.GetIdx(), *neighbors])
        parities.append(sign)
    bonds, trans, axes, twists = [], [], [], []
    for bond in mol.GetBonds():
        stereo = bond.GetStereo()
        if stereo in _CIS or stereo in _TRANS:
            first, last = bond.GetStereoAtoms()
            begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            if mol.GetBondBetweenAtoms(begin, first) is None:
                first, last = last, first
            bonds.append([first, begin, end, last])
            trans.append(stereo in _TRANS)
        elif stereo in _AXIAL:
            begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            # RDKit's label refers to the neighbour of lowest index on either side.
            first, last = min(_substituents(mol, begin, end)), min(_substituents(mol, end, begin))
            axes.append([first, begin, end, last])
            twists.append(_AXIAL[stereo])
    return StereoTables(
        np.array(centers, np.int16).reshape(-1, 5),
        np.array(parities, np.int8),
        np.array(bonds, np.int16).reshape(-1, 4),
        np.array(trans, bool),
        np.array(axes, np.int16).reshape(-1, 4),
        np.array(twists, np.int8),
    )


def unassigned_stereo(mol: Chem.Mol) -> str | None:
    """A phrase naming the first centre or double bond of `mol` without specified stereo, or None.

    Axes do not count: RDKit does not look for atropisomers that nobody marked.
    """
    for element in Chem.FindPotentialStereo(Chem.Mol(mol)):
        if element.specified != Chem.StereoSpecified.Unspecified:
            continue
        if element.type == Chem.StereoType.Atom_Tetrahedral:
            return f"centre {element.centeredOn}"
        if element.type == Chem.StereoType.Bond_Double:
            bond = mol.GetBondWithIdx(element.centeredOn)
            if _in_cumulene(bond):
                continue
            return f"double bond {bond.GetBeginAtomIdx()}={bond.GetEndAtomIdx()}"
    return None


def _in_cumulene(bond: Chem.Bond) -> bool:
    """An end of the double bond has a second one; RDKit keeps no stereo of such bonds."""
    return any(
        sum(b.GetBondType() == Chem.BondType.DOUBLE for b in atom.GetBonds()) > 1
        for atom in (bond.GetBeginAtom(), bond.GetEndAtom())
    )


def cis_trans_pairs(mol: Chem.Mol, tables: StereoTables) -> tuple[list, list]:
    """All 1-4 pairs across stereo double bonds: (cis pairs, trans pairs) of atom indices."""
    cis: list[tuple[int, int]] = []
    trans: list[tuple[int, int]] = []
    for (first, begin, end, last), is_trans in zip(
        tables.double_bonds.tolist(), tables.trans.tolist(), strict=True
    ):
        for i in _substituents(mol, begin, end):
            for j in _substituents(mol, end, begin):
                opposite = bool(is_trans) ^ (i != first) ^ (j != last)
                (trans if opposite else cis).append((i, j))
    return cis, trans


def _substituents(mol: Chem.Mol, atom: int, across: int) -> list[int]:
    neighbors = mol.GetAtomWithIdx(atom).GetNeighbors()
    return [n.GetIdx() for n in neighbors if n.GetIdx() != across]


def wrong_centers(positions: np.ndarray, tables: StereoTables) -> np.ndarray:
    """Bool (..., S): centres of (..., N, 3) positions whose signed volume has the wrong sign."""
    points = positions[..., tables.centers[:, 1:], :]
    a, b, c, d = (points[..., k, :] for k in range(4))
    volume = ((a - d) * np.cross(b - d, c - d)).sum(-1)
    return ~(volume * tables.parities > 0)


def wrong_double_bonds(positions: np.ndarray, tables: StereoTables) -> np.ndarray:
    """Bool (..., D): double bonds of (..., N, 3) positions that are not as labelled.

    The cosine of the dihedral angle decides; a bond within 30° of perpendicular is wrong.
    """
    cosine, _ = dihedrals(positions, tables.double_bonds)
    return ~np.where(tables.trans, cosine < -0.5, cosine > 0.5)


def wrong_axes(positions: np.ndarray, tables: StereoTables) -> np.ndarray:
    """Bool (..., A): axes of (..., N, 3) positions twisted the other way, or less than 10°."""
    _, sine = dihedrals(positions, tables.axes)
    return ~(sine * tables.twists > 0.17)


def dihedrals(positions: np.ndarray, quadruples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine (..., Q) of the dihedral angles of (Q, 4) atoms; 0 where not defined."""
    i, j, k, m = (positions[..., quadruples[:, column], :] for column in range(4))
    axis = k - j
    first, last = np.cross(i - j, axis), np.cross(m - k, axis)
    size = np.maximum(np.linalg.norm(first, axis=-1) * np.linalg.norm(last, axis=-1), 1e-9)
    length = np.maximum(np.linalg.norm(axis, axis=-1), 1e-9)
    sine = (np.cross(first, last) * axis).sum(-1) / (size * length)
    return (first * last).sum(-1) / size, sine
