"""SMILES-and-coordinates archives → references and shards.

The archives (`.npz` with smiles, n_atoms, n_confs, coords in 0.001 Å and, where known, energy in
kcal/mol above the molecule's lowest conformer) keep molecules as text; featurising them is done
once, here.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem
from tqdm.auto import tqdm

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.data.shards import Reference, write_shard


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
    """

    smiles: str
    mol: Chem.Mol
    positions: np.ndarray
    energies: np.ndarray | None


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
        energies = None
        if "energy" in arrays and len(arrays["energy"]) == energy_rows[-1]:
            energies = arrays["energy"][energy_rows[k] : energy_rows[k + 1]].astype(np.float64)
        yield ReferenceMolecule(smiles, mol, block.reshape(confs[k], atoms[k], 3), energies)


def featurize_archive(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, progress: bool = True
) -> int:
    """Write the shard `target` of the archive `source`; returns the number of molecules."""
    total = len(_load(source)["n_atoms"])
    molecules = tqdm(
        read_archive(source), total=total, desc=Path(source).stem, unit="mol", disable=not progress
    )
    references = (Reference(featurize(m.mol), m.positions) for m in molecules)
    return write_shard(target, references)


def _load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ArchiveError(f"{path}: not an archive of conformers ({error})") from error
    missing = {"smiles", "n_atoms", "n_confs", "coords"} - arrays.keys()
    if missing:
        names = ", ".join(sorted(missing))
        raise ArchiveError(f"{path}: not an archive of conformers (no {names})")
    return arrays
