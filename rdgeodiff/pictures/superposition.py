"""Conformers laid over each other so that the eye sees what is alike and what moves."""

from __future__ import annotations

import numpy as np
from rdkit import Chem

MAX_ORDERS = 200  # symmetric atom orders tried


def superposed(mol: Chem.Mol, depiction: Chem.Mol | None = None) -> np.ndarray:
    """Conformers laid over each other on a rigid part.

    Args:
        mol: with conformers.
        depiction: the same atoms with a 2D layout; the result then faces as it does. Otherwise it
            lies flat: longest along x, thinnest along z.

    Returns:
        (C, N, 3) positions in Å, centred.
    """
    positions = np.array([c.GetPositions() for c in mol.GetConformers()])
    core = rigid_core(mol)
    # The conformer nearest to all others is the one to lie on.
    spread = [sum(rmsd(fit(p, q, core), q) for q in positions) for p in positions]
    reference = positions[int(np.argmin(spread))]
    laid = np.array([fit_symmetric(mol, p, reference, core) for p in positions])
    if depiction is None:
        laid = laid - laid.mean((0, 1))
        _, _, axes = np.linalg.svd(laid.reshape(-1, 3), full_matrices=False)
        if len(axes) == 3:  # at least three points
            axes[2] *= np.sign(np.linalg.det(axes))  # turned, not mirrored
            laid = laid @ axes.T
        return laid
    page = depiction.GetConformer().GetPositions()
    page[:, 2] = 0.0
    rotation, _, middle = kabsch(laid.mean(0), page)
    return (laid - middle) @ rotation


def rigid_core(mol: Chem.Mol) -> list[int]:
    """Atoms of the most central part without rotatable bonds, and the atoms bonded to it."""
    parts: list[set[int]] = [{a.GetIdx()} for a in mol.GetAtoms()]
    for bond in mol.GetBonds():
        if bond.IsInRing() or bond.GetBondType() != Chem.BondType.SINGLE:
            ends = {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
            touched = [p for p in parts if p & ends]
            parts = [p for p in parts if not p & ends] + [set().union(*touched)]
    bonds_apart = Chem.GetDistanceMatrix(mol)
    core = min(parts, key=lambda part: bonds_apart[list(part)].min(0).sum())
    around = {n.GetIdx() for i in core for n in mol.GetAtomWithIdx(i).GetNeighbors()}
    return sorted(core | around)


def kabsch(mobile: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation R and centroids so that (mobile − c) R lies best on target − t: (R, t, c)."""
    c, t = mobile.mean(0), target.mean(0)
    u, _, vt = np.linalg.svd((mobile - c).T @ (target - t))
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return u @ vt, t, c


def fit(mobile: np.ndarray, target: np.ndarray, atoms: list[int]) -> np.ndarray:
    """All of `mobile`, moved so that `atoms` lie on those of `target`."""
    rotation, t, c = kabsch(mobile[atoms], target[atoms])
    return (mobile - c) @ rotation + t


def fit_symmetric(
    mol: Chem.Mol, mobile: np.ndarray, target: np.ndarray, atoms: list[int]
) -> np.ndarray:
    """As `fit`, with equivalent atoms (the two sides of a phenyl) named so that they lie best."""
    n = mol.GetNumAtoms()
    found = mol.GetSubstructMatches(mol, uniquify=False, maxMatches=MAX_ORDERS)
    # A search that finds nothing (query atoms) leaves the order as it is.
    orders = found or [tuple(range(n))]
    moved = (fit(mobile[list(order)], target, atoms) for order in orders)
    return min(moved, key=lambda points: rmsd(points[atoms], target[atoms]) + rmsd(points, target))


def rmsd(points: np.ndarray, target: np.ndarray) -> float:
    """RMSD in Å as they lie."""
    return float(np.sqrt(((points - target) ** 2).sum(-1).mean()))
