"""Conformer properties through pickling and SDF, both of which lose them as RDKit has it.

A conformer from `EmbedMoleculeDiffusion` has `rdgeodiff_index` (its index in the call) and, where
relaxation was asked for, `rdgeodiff_relaxed` ("yes", or the cause why not), `rdgeodiff_energy`
(kcal/mol) and `rdgeodiff_force_field`.
"""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rdkit import Chem

from rdgeodiff.chem.formats import ReaderError, is_zipped, kind_of
from rdgeodiff.chem.parquet import mol_from_bytes, mol_to_bytes
from rdgeodiff.chem.readers import read_molecules
from rdgeodiff.chem.sdf_records import conformer_block, merged

logger = logging.getLogger(__name__)

FilePath = str | os.PathLike[str]


def MolToBinaryWithProps(mol: Chem.Mol) -> bytes:
    """`mol` as bytes for another process: all properties, conformer ids, exact positions.

    `pickle` by itself leaves out the properties of molecule and conformers and rounds positions to
    single precision, unless RDKit's global default is changed; this leaves it as it is.

    Raises:
        TypeError: not a Mol.
    """
    if not isinstance(mol, Chem.Mol):
        raise TypeError(f"mol must be an RDKit Mol, not {type(mol).__name__}")
    return mol_to_bytes(mol)


def MolFromBinaryWithProps(data: bytes) -> Chem.Mol:
    """The Mol `MolToBinaryWithProps` wrote.

    Raises:
        ValueError: other bytes.
    """
    return mol_from_bytes(data)


def WriteConformersToSDF(
    mols: Chem.Mol | Iterable[Chem.Mol | None], target: FilePath | TextIO
) -> int:
    """Write one record per conformer, with the properties of conformer and molecule.

    Args:
        mols: one or more molecules. None and molecules without conformers leave no record and are
            logged as a warning.
        target: .sdf or .sdf.gz, replaced; or a stream of text, left open.

    Returns:
        The number of records.

    Raises:
        TypeError: something else than Mols.
        ReaderError: another ending.
        OSError: the file cannot be written.
    """
    written = 0
    with _opened(target) as stream:
        for index, mol in enumerate([mols] if isinstance(mols, Chem.Mol) else mols):
            if mol is not None and not isinstance(mol, Chem.Mol):
                kind = type(mol).__name__
                raise TypeError(f"molecule {index} is not an RDKit Mol but {kind}")
            if mol is None or not mol.GetNumConformers():
                what = (
                    "None"
                    if mol is None
                    else f"{Chem.MolToSmiles(Chem.Mol(mol))} without conformers"
                )
                logger.warning("molecule %d is %s; nothing is written for it", index, what)
                continue
            for conformer in mol.GetConformers():
                stream.write(conformer_block(mol, conformer.GetId()))
                written += 1
    return written


def ReadConformersFromSDF(source: FilePath) -> list[Chem.Mol]:
    """Molecules with all their conformers from a file with one record per conformer.

    Consecutive records with the same title, SMILES and order of atoms become one Mol. From files of
    `WriteConformersToSDF` and the command line, conformer ids and the properties of molecule and
    conformers come back with their types; positions have an SDF's four decimals. From other files,
    fields that differ between the records become conformer properties.

    Args:
        source: .sdf or .sdf.gz.

    Returns:
        Molecules with explicit hydrogens as written. A record that cannot be read is left out and
        logged as a warning.

    Raises:
        ReaderError: another ending.
        OSError: the file cannot be read.
    """
    if kind_of(source) != "sdf":
        raise ReaderError(f"{source}: conformers are read from .sdf or .sdf.gz")
    return list(merged(_records(source)))


def _records(source: FilePath) -> Iterator[Chem.Mol]:
    for record in read_molecules(source, add_hs=False):
        if record.mol is None or not record.mol.GetNumConformers():
            why = record.error or "it has no positions"
            logger.warning("%s: record %d is left out: %s", source, record.row + 1, why)
        else:
            yield record.mol


@contextmanager
def _opened(target: FilePath | TextIO) -> Iterator[TextIO]:
    if not isinstance(target, str | os.PathLike):
        yield target
        return
    if kind_of(target) != "sdf":
        raise ReaderError(f"{target}: conformers are written as .sdf or .sdf.gz")
    opener: Any = gzip.open if is_zipped(target) else open
    with opener(target, "wt", encoding="utf-8", newline="\n") as stream:
        yield stream
