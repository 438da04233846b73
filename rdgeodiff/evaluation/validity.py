"""Whether conformers are sound: stereochemistry, bond lengths and angles, PoseBusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Geometry import Point3D

from rdgeodiff.chem.stereo import stereo_tables, wrong_centers, wrong_double_bonds


@dataclass(frozen=True)
class GeometryDeviation:
    """Mean absolute deviation of a molecule's mean internal coordinates from the references'.

    Attributes:
        bonds: Å, over all bonds; None without bonds or conformers.
        angles: degrees, over all pairs of bonds at an atom; None where there are none.
    """

    bonds: float | None
    angles: float | None


def right_stereo(mol: Chem.Mol, positions: np.ndarray) -> np.ndarray:
    """Bool (K,): conformers (K, N, 3) with every specified centre and double bond as demanded."""
    tables = stereo_tables(mol)
    centers, bonds = wrong_centers(positions, tables), wrong_double_bonds(positions, tables)
    return np.asarray(~(centers.any(-1) | bonds.any(-1)))


def geometry_deviation(
    mol: Chem.Mol, generated: np.ndarray, reference: np.ndarray
) -> GeometryDeviation:
    """Compare mean bond lengths and angles of two ensembles (G, N, 3) and (R, N, 3) in Å.

    Each bond's mean over the generated conformers is set against its mean over the references, so
    that thermal scatter does not count, and a systematic error does.
    """
    bonds = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()], int)
    angles = _angles(mol)
    if not len(generated) or not len(reference) or not len(bonds):
        return GeometryDeviation(None, None)
    length = _lengths(generated, bonds).mean(0) - _lengths(reference, bonds).mean(0)
    if not len(angles):
        return GeometryDeviation(float(np.abs(length).mean()), None)
    angle = _degrees(generated, angles).mean(0) - _degrees(reference, angles).mean(0)
    return GeometryDeviation(float(np.abs(length).mean()), float(np.abs(angle).mean()))


def posebusters_passes(mol: Chem.Mol, positions: np.ndarray) -> int:
    """Number of conformers (K, N, 3) that pass every check of PoseBusters' "mol" configuration.

    Raises:
        ImportError: PoseBusters is not installed.
    """
    try:
        from posebusters import PoseBusters
    except ImportError as error:
        raise ImportError("PoseBusters is not installed: pip install 'rdgeodiff[eval]'") from error
    if not len(positions):
        return 0
    with rdBase.BlockLogs():
        table = PoseBusters(config="mol").bust([with_conformer(mol, p) for p in positions])
    # A check that could not be computed is a NaN, and not a pass.
    return int(table.eq(True).all(axis=1).sum())


def with_conformer(mol: Chem.Mol, positions: np.ndarray) -> Chem.Mol:
    """A copy of `mol` whose only conformer has `positions` (N, 3) in Å."""
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    conformer = Chem.Conformer(copy.GetNumAtoms())
    conformer.Set3D(True)
    for index, xyz in enumerate(np.asarray(positions, float).tolist()):
        conformer.SetAtomPosition(index, Point3D(*xyz))
    copy.AddConformer(conformer, assignId=True)
    return copy


def _angles(mol: Chem.Mol) -> np.ndarray:
    """(A, 3) atom indices (end, apex, end)."""
    triples = []
    for atom in mol.GetAtoms():
        around = sorted(n.GetIdx() for n in atom.GetNeighbors())
        triples += [(i, atom.GetIdx(), j) for k, i in enumerate(around) for j in around[k + 1 :]]
    return np.array(triples, int).reshape(-1, 3)


def _lengths(positions: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[:, bonds[:, 0]] - positions[:, bonds[:, 1]], axis=-1)


def _degrees(positions: np.ndarray, angles: np.ndarray) -> np.ndarray:
    first = positions[:, angles[:, 0]] - positions[:, angles[:, 1]]
    last = positions[:, angles[:, 2]] - positions[:, angles[:, 1]]
    sine = np.linalg.norm(np.cross(first, last), axis=-1)
    return np.degrees(np.arctan2(sine, (first * last).sum(-1)))
