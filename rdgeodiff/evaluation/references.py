"""Reference ensembles from whatever file holds them: archive, shard, SDF, or GEOM itself."""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from rdgeodiff.chem.rebuild import RebuildError, mol_of
from rdgeodiff.data.conformer_sets import ArchiveError, ReferenceMolecule, read_archive
from rdgeodiff.data.geom import open_source
from rdgeodiff.data.geom_build import read_ensembles
from rdgeodiff.data.shards import read_shard

_SDF = (".sdf", ".sdf.gz", ".sd", ".sd.gz")


def read_references(path: str | os.PathLike[str]) -> Iterator[ReferenceMolecule]:
    """Molecules with their reference conformers.

    Args:
        path: an archive or a shard (.npz); an .sdf or .sdf.gz with one conformer a record, in which
            records that follow each other and are the same molecule in the same atom order make one
            ensemble; a preprocessed .pkl of GeoDiff; or GEOM's rdkit_folder.

    Raises:
        ArchiveError: damaged, or not such a file; names the molecule or record.
        OSError: no such file.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(_SDF):
        return _from_sdf(path)
    if path.is_dir() or name.endswith(".pkl"):
        return (e.reference for e in read_ensembles(open_source(path)))
    if _is_shard(path):
        return _from_shard(path)
    return read_archive(path)


def _is_shard(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as stored:
            return "pair_codes.npy" in stored.namelist()
    except (zipfile.BadZipFile, IsADirectoryError):
        return False


def _from_shard(path: Path) -> Iterator[ReferenceMolecule]:
    shard = read_shard(path)
    for k in range(len(shard)):
        try:
            mol = mol_of(shard.graph(k))
        except RebuildError as error:
            raise ArchiveError(f"{path}: molecule {k}: {error}") from error
        smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
        yield ReferenceMolecule(smiles, mol, shard.conformers(k).astype(np.float64), None)


def _from_sdf(path: Path) -> Iterator[ReferenceMolecule]:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as stream:
        found = False
        for _, group in groupby(_records(path, stream), key=_same):
            mols = list(group)
            found = True
            positions = np.array([m.GetConformer().GetPositions() for m in mols])
            mol = Chem.Mol(mols[0])
            mol.RemoveAllConformers()
            yield ReferenceMolecule(Chem.MolToSmiles(Chem.RemoveHs(mol)), mol, positions, None)
        if not found:
            raise ArchiveError(f"{path}: no records")


def _records(path: Path, stream: Any) -> Iterator[Chem.Mol]:
    with rdBase.BlockLogs():
        for row, mol in enumerate(Chem.ForwardSDMolSupplier(stream, removeHs=False)):
            if mol is None:
                raise ArchiveError(f"{path}: record {row} is not one RDKit can read")
            if not mol.GetNumConformers() or not mol.GetConformer().Is3D():
                raise ArchiveError(f"{path}: record {row} has no 3-D coordinates")
            if any(a.GetTotalNumHs() for a in mol.GetAtoms()):
                raise ArchiveError(f"{path}: record {row} lacks hydrogens")
            yield mol


def _same(mol: Chem.Mol) -> tuple:
    """Equal for records of one molecule in one atom order, stereochemistry included."""
    bonds = tuple((b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds())
    return Chem.MolToSmiles(mol), tuple(a.GetAtomicNum() for a in mol.GetAtoms()), bonds
