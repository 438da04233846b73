"""Positions in, conformers on a Mol out: hydrogens, pruning, ids as RDKit hands them out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolAlign

logger = logging.getLogger(__name__)

# Symmetric atom orders tried for an RMSD: enough for any drug, and never a combinatorial explosion.
MAX_MATCHES = 10_000


def with_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    """`mol` itself, or a copy with hydrogens where it lacks some; its atoms keep their indices.

    The model knows molecules with hydrogens only. RDKit's warning is given, as by its own call.
    """
    if not Chem.NeedsHs(mol):
        return mol
    logger.warning("Molecule does not have explicit Hs. Consider calling AddHs()")
    bare = Chem.Mol(mol)
    bare.RemoveAllConformers()
    return Chem.AddHs(bare)


def as_conformer(positions: np.ndarray) -> Chem.Conformer:
    """A 3D conformer of (N, 3) positions in Å."""
    conformer = Chem.Conformer(len(positions))
    conformer.Set3D(True)
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
    return conformer


# Names of the properties of a delivered conformer.
INDEX, RELAXED = "rdgeodiff_index", "rdgeodiff_relaxed"
ENERGY, FORCE_FIELD = "rdgeodiff_energy", "rdgeodiff_force_field"

Property = str | bool | int | float


def write_conformers(
    mol: Chem.Mol,
    positions: Sequence[np.ndarray],
    properties: Sequence[Mapping[str, Property]] | None = None,
) -> list[int]:
    """Append conformers to `mol`; returns their ids, which continue after the highest there is.

    Args:
        mol: only its conformers change.
        positions: arrays (M, 3) in Å with M at least the number of atoms; rows beyond them
            (hydrogens added for the model's sake) are left out.
        properties: name → value for each conformer.
    """
    n = mol.GetNumAtoms()
    ids = []
    for k, p in enumerate(positions):
        conformer = as_conformer(p[:n])
        for name, value in (properties[k] if properties is not None else {}).items():
            set_property(conformer, name, value)
        ids.append(mol.AddConformer(conformer, assignId=True))
    return ids


def set_property(target: Chem.Mol | Chem.Conformer, name: str, value: Property) -> None:
    """Set a property under its Python type; whole numbers too large for RDKit become text."""
    if isinstance(value, bool):
        target.SetBoolProp(name, value)
    elif isinstance(value, int):
        if -(2**31) <= value < 2**31:
            target.SetIntProp(name, value)
        elif 0 <= value < 2**32:
            target.SetUnsignedProp(name, value)
        else:
            target.SetProp(name, str(value))
    elif isinstance(value, float):
        target.SetDoubleProp(name, value)
    else:
        target.SetProp(name, value)


def prune(
    mol: Chem.Mol,
    positions: Sequence[np.ndarray],
    threshold: float,
    *,
    heavy_only: bool = True,
    symmetry: bool = True,
    symmetrize_terminal: bool = True,
    threads: int = 1,
) -> list[int]:
    """Indices of the positions RDKit's greedy rule keeps.

    The first is kept, and of the others each that is at least `threshold` Å from all kept.

    Args:
        mol: Mol with as many atoms as each of `positions` has rows.
        positions: arrays (N, 3) in Å.
        threshold: RMSD in Å; not above 0 keeps everything.
        heavy_only: RMSD over heavy atoms (over all, where there is none).
        symmetry: smallest RMSD over symmetric atom orders, `MAX_MATCHES` at most.
        symmetrize_terminal: count conjugated terminal groups (carboxylate) as symmetric.
        threads: 0 for all.
    """
    if threshold <= 0 or len(positions) < 2:
        return list(range(len(positions)))
    heavy = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
    probe = Chem.Mol(mol)
    probe.RemoveAllConformers()
    rows = np.arange(mol.GetNumAtoms())
    if heavy_only and heavy:
        probe, rows = _heavy_copy(probe), np.array(heavy)
    for p in positions:
        probe.AddConformer(as_conformer(p[rows]), assignId=True)
    identity = None if symmetry else [[(k, k) for k in range(probe.GetNumAtoms())]]
    flat = rdMolAlign.GetAllConformerBestRMS(
        probe,
        numThreads=threads,
        map=identity,
        maxMatches=MAX_MATCHES,
        symmetrizeConjugatedTerminalGroups=symmetrize_terminal,
    )
    kept: list[int] = []
    for k in range(len(positions)):
        row = flat[k * (k - 1) // 2 : k * (k + 1) // 2]
        if all(row[other] >= threshold for other in kept):
            kept.append(k)
    return kept


def _heavy_copy(mol: Chem.Mol) -> Chem.Mol:
    """`mol` without any of its hydrogens, not even the isotopes RemoveHs spares."""
    editable = Chem.RWMol(mol)
    editable.BeginBatchEdit()
    for atom in editable.GetAtoms():
        if atom.GetAtomicNum() == 1:
            editable.RemoveAtom(atom.GetIdx())
    editable.CommitBatchEdit()
    return editable.GetMol()
