"""Specified stereochemistry of an RDKit Mol as tables a network and a checker can use.

A tetrahedral centre becomes an ordered tuple of neighbours whose signed volume must have a given
sign; a double bond becomes a quadruple of atoms that must be cis or trans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rdkit import Chem

_TETRAHEDRAL = {
    Chem.ChiralType.CHI_TETRAHEDRAL_CW: -1,
    Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 1,
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
    """

    centers: np.ndarray
    parities: np.ndarray
    double_bonds: np.ndarray
    trans: np.ndarray


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
    bonds, trans = [], []
    for bond in mol.GetBonds():
        stereo = bond.GetStereo()
        if stereo in _CIS or stereo in _TRANS:
            first, last = bond.GetStereoAtoms()
            begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            if mol.GetBondBetweenAtoms(begin, first) is None:
                first, last = last, first
            bonds.append([first, begin, end, last])
            trans.append(stereo in _TRANS)
    return StereoTables(
        np.array(centers, np.int16).reshape(-1, 5),
        np.array(parities, np.int8),
        np.array(bonds, np.int16).reshape(-1, 4),
        np.array(trans, bool),
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
    i, j, k, m = (positions[..., tables.double_bonds[:, column], :] for column in range(4))
    axis = k - j
    first, last = np.cross(i - j, axis), np.cross(m - k, axis)
    size = np.linalg.norm(first, axis=-1) * np.linalg.norm(last, axis=-1)
    cosine = (first * last).sum(-1) / np.maximum(size, 1e-9)
    return ~np.where(tables.trans, cosine < -0.5, cosine > 0.5)
