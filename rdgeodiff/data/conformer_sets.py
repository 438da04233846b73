"""SMILES-and-coordinates archives → references and shards.

The archives (`.npz` with smiles, n_atoms, n_confs, coords in 0.001 Å and, where known, energy in
kcal/mol above the molecule's lowest conformer and Boltzmann weight) keep molecules as text;
featurising them is done once, here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem
from tqdm.auto import tqdm

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.data.arrays import ArraysError, read_arrays
from rdgeodiff.data.shards import Reference, write_shard
from rdgeodiff.skeleton import skeleton

# Kinds of numpy's types and number of axes.
_ARRAYS = {"smiles": ("US", 1), "n_atoms": ("iu", 1), "n_confs": ("iu", 1), "coords": ("iuf", 2)}


class ArchiveError(ValueError):
    """An archive that does not hold what its arrays promise."""


@dataclass(frozen=True)
class ReferenceMolecule:
    """A Mol with explicit hydrogens and its reference conformers.

    Attributes:
        smiles: isomeric SMILES; atoms of `mol` are RDKit's order after adding hydrogens.
        mol: Mol without conformers.
        positions: (C, N, 3) float64 in Å.
        energies: (C,) kcal/mol above the lowest, or None.
        weights: (C,) Boltzmann weights, or None.
    """

    smiles: str
    mol: Chem.Mol
    positions: np.ndarray
    energies: np.ndarray | None
    weights: np.ndarray | None = None


def read_archive(
    path: str | os.PathLike[str], limit: int | None = None
) -> Iterator[ReferenceMolecule]:
    """Molecules of an archive, in order.

    Raises:
        ArchiveError: not an archive, counts that contradict each other, or a SMILES that does not
            parse; names the molecule's index.
    """
    arrays = _load(path)
    atoms = arrays["n_atoms"].astype(np.int64)
    confs = arrays["n_confs"].astype(np.int64)
    rows = np.concatenate([[0], np.cumsum(atoms * confs)])
    energy_rows = np.concatenate([[0], np.cumsum(confs)])
    if rows[-1] != len(arrays["coords"]):
        raise ArchiveError(f"{path}: {len(arrays['coords'])} coordinate rows, not {rows[-1]}")
    for k in range(len(atoms) if limit is None else min(limit, len(atoms))):
        smiles = str(arrays["smiles"][k])
        parsed = Chem.MolFromSmiles(smiles)
        if parsed is None:
            raise ArchiveError(f"{path}: molecule {k} has an invalid SMILES {smiles!r}")
        mol = Chem.AddHs(parsed)
        if mol.GetNumAtoms() != atoms[k]:
            raise ArchiveError(
                f"{path}: molecule {k} ({smiles}) has {mol.GetNumAtoms()} atoms, not {atoms[k]}"
            )
        block = arrays["coords"][rows[k] : rows[k + 1]].astype(np.float64) / 1000.0
        own = slice(energy_rows[k], energy_rows[k + 1])
        energies, weights = (
            arrays[name][own].astype(np.float64)
            if name in arrays and len(arrays[name]) == energy_rows[-1]
            else None
            for name in ("energy", "weight")
        )
        positions = block.reshape(confs[k], atoms[k], 3)
        yield ReferenceMolecule(smiles, mol, positions, energies, weights)


def write_archive(path: str | os.PathLike[str], molecules: Sequence[ReferenceMolecule]) -> None:
    """Write `molecules` for `read_archive`; the file appears when complete.

    Energies and weights are stored where every molecule has them.

    Raises:
        ArchiveError: no molecules, a SMILES whose atoms are not those of the Mol, or an atom more
            than 32 Å from the centroid; names the molecule's index.
    """
    path = Path(path)
    if not molecules:
        raise ArchiveError(f"{path}: no molecules to write")
    coords = []
    for k, molecule in enumerate(molecules):
        parsed = Chem.MolFromSmiles(molecule.smiles)
        numbers = [] if parsed is None else _numbers(Chem.AddHs(parsed))
        if numbers != _numbers(molecule.mol):
            raise ArchiveError(f"molecule {k} ({molecule.smiles}): its SMILES has other atoms")
        centered = molecule.positions - molecule.positions.mean(1, keepdims=True)
        thousandths = np.rint(1000.0 * centered).reshape(-1, 3)
        if np.abs(thousandths).max(initial=0) > np.iinfo(np.int16).max:
            raise ArchiveError(f"molecule {k} ({molecule.smiles}): more than 32 Å in radius")
        coords.append(thousandths.astype(np.int16))
    arrays = {
        "smiles": np.array([m.smiles for m in molecules]),
        "n_atoms": np.array([m.mol.GetNumAtoms() for m in molecules], np.int16),
        "n_confs": np.array([len(m.positions) for m in molecules], np.int16),
        "coords": np.concatenate(coords),
    }
    energies = [m.energies for m in molecules if m.energies is not None]
    if len(energies) == len(molecules):
        arrays["energy"] = np.concatenate(energies).astype(np.float32)
    weights = [m.weights for m in molecules if m.weights is not None]
    if len(weights) == len(molecules):
        arrays["weight"] = np.concatenate(weights).astype(np.float32)
    temporary = path.with_suffix(".partial.npz")
    np.savez_compressed(temporary, allow_pickle=False, **arrays)
    os.replace(temporary, path)


def featurize_archive(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    hydrogens_anew: int = 0,
    progress: bool = True,
) -> int:
    """Write the shard `target` of the archive `source`; returns the number of molecules.

    With `hydrogens_anew`, so many copies of each conformer take its place, whose hydrogens have
    been set on the heavy atoms as `Skeleton.with_hydrogens` does: what a model that finishes
    skeletons starts from, and no geometries to learn. Such a shard holds no energies.
    """
    total = len(_load(source)["n_atoms"])
    molecules = tqdm(
        read_archive(source), total=total, desc=Path(source).stem, unit="mol", disable=not progress
    )
    references = (Reference(featurize(m.mol), m.positions, m.energies) for m in molecules)
    if hydrogens_anew:
        references = (_set_anew(r, hydrogens_anew, k) for k, r in enumerate(references))
    return write_shard(target, references)


def _set_anew(reference: Reference, copies: int, seed: int) -> Reference:
    """Hydrogens of a molecule in places of no conformer; heavy atoms stay."""
    bare, rng = skeleton(reference.graph), np.random.default_rng(seed)
    positions = np.repeat(np.asarray(reference.positions, np.float64), copies, 0)
    if bare is not None:
        positions = np.array([bare.with_hydrogens(x[bare.atoms], rng) for x in positions])
    return Reference(reference.graph, positions)


def _numbers(mol: Chem.Mol) -> list[int]:
    return [a.GetAtomicNum() for a in mol.GetAtoms()]


def _load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    try:
        arrays = read_arrays(path)
    except ArraysError as error:
        raise ArchiveError(f"not an archive of conformers: {error}") from error
    missing = _ARRAYS.keys() - arrays.keys()
    if missing:
        names = ", ".join(sorted(missing))
        raise ArchiveError(f"{path}: not an archive of conformers (no {names})")
    for name, (kinds, ndim) in _ARRAYS.items():
        if arrays[name].dtype.kind not in kinds or arrays[name].ndim != ndim:
            raise ArchiveError(f"{path}: array {name} has a wrong type")
    atoms, confs = (arrays[name].astype(np.int64) for name in ("n_atoms", "n_confs"))
    if not len(atoms) == len(confs) == len(arrays["smiles"]):
        raise ArchiveError(f"{path}: counts of molecules disagree")
    if (atoms < 1).any() or (confs < 0).any() or arrays["coords"].shape[1] != 3:
        raise ArchiveError(f"{path}: sizes of molecules or coordinates make no sense")
    if not np.isfinite(arrays["coords"]).all():
        raise ArchiveError(f"{path}: coordinates are not finite")
    for name in {"energy", "weight"} & arrays.keys():
        if arrays[name].dtype.kind not in "fiu" or arrays[name].ndim != 1:
            raise ArchiveError(f"{path}: array {name} has a wrong type")
    return arrays
