"""Coordinate maps: atom index → place, as RDKit's SetCoordMap takes them.

A map that no conformer can satisfy is refused before anything is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom

from rdgeodiff.chem.stereo import StereoTables, wrong_axes, wrong_centers, wrong_double_bonds
from rdgeodiff.geometry import HeldAtoms

# How far a distance between two places may lie outside RDKit's (smoothed) bounds for the two atoms.
SHORTEST, LONGEST = 0.7, 1.15


def held_atoms(mol: Chem.Mol, places: Mapping[int, tuple[float, float, float]]) -> HeldAtoms | None:
    """The held atoms of a molecule, or None for an empty map.

    Args:
        mol: the user's molecule.
        places: atom index → (x, y, z) in Å.

    Raises:
        ValueError: an index outside the molecule.
    """
    if not places:
        return None
    atoms = np.array(sorted(places), int)
    if atoms[0] < 0 or atoms[-1] >= mol.GetNumAtoms():
        wrong = atoms[0] if atoms[0] < 0 else atoms[-1]
        raise ValueError(
            f"coordMap names atom {wrong}, but the molecule has {mol.GetNumAtoms()} atoms"
        )
    return HeldAtoms(atoms, np.array([places[int(k)] for k in atoms], float))


def within(held: HeldAtoms | None, atoms: np.ndarray) -> HeldAtoms | None:
    """The part of `held` that lies in a fragment with these `atoms`, in its numbering."""
    if held is None:
        return None
    inside = np.isin(held.atoms, atoms)
    if not inside.any():
        return None
    numbers = {int(whole): own for own, whole in enumerate(atoms)}
    own = np.array([numbers[int(k)] for k in held.atoms[inside]], int)
    return HeldAtoms(own, held.positions[inside])


def contradiction(mol: Chem.Mol, held: HeldAtoms, tables: StereoTables) -> str | None:
    """Why no conformer of `mol` (one fragment, explicit hydrogens) can have these places, or None.

    Distances are compared with RDKit's bounds. Centres, double bonds and axes of which all
    reference atoms are held must have their specified stereo.
    """
    distances = np.linalg.norm(held.positions[:, None] - held.positions, axis=-1)
    bounds = _bounds(mol)
    for a, i in enumerate(held.atoms):
        for b, j in enumerate(held.atoms[:a]):
            low, high = bounds[i, j], bounds[j, i]
            if not low * SHORTEST <= distances[a, b] <= high * LONGEST:
                return (
                    f"coordMap puts atoms {j} and {i} {distances[a, b]:.2f} Å apart; "
                    f"between {low:.2f} and {high:.2f} Å is possible"
                )
    positions = np.full((mol.GetNumAtoms(), 3), np.nan)
    positions[held.atoms] = held.positions
    for name, table, wrong in (
        ("the centre", tables.centers[:, 1:], wrong_centers(positions, tables)),
        ("the double bond", tables.double_bonds, wrong_double_bonds(positions, tables)),
        ("the axis", tables.axes, wrong_axes(positions, tables)),
    ):
        for atoms, is_wrong in zip(table.tolist(), wrong, strict=True):
            if is_wrong and set(atoms) <= set(held.atoms.tolist()):
                return f"coordMap gives {name} of atoms {atoms} the opposite stereo"
    return None


def _bounds(mol: Chem.Mol) -> np.ndarray:
    """(N, N) smoothed distance bounds in Å: lower ones below the diagonal, upper ones above."""
    n = mol.GetNumAtoms()
    free = np.triu(np.full((n, n), np.inf), 1)
    with rdBase.BlockLogs():
        try:
            found = np.asarray(rdDistGeom.GetMoleculeBoundsMatrix(mol))
        except (RuntimeError, ValueError):  # no bounds can be made; then nothing is excluded
            return free
    return found
