"""Molecules in Parquet tables: RDKit's binary form with properties, in columns that are marked.

A marked column is read back as molecules, whoever wrote the table. pyarrow is an extra (`pandas`)
and is imported when a table is read or written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from rdkit import Chem, rdBase

from rdgeodiff.chem.formats import ReaderError

MARK = {b"rdgeodiff": b"mol"}
INSTRUCTION = "Parquet needs pyarrow: pip install 'rdgeodiff[pandas]'"
_BATCH = 256
_NAME_COLUMNS = ("name", "id", "title", "_name", "molecule", "compound")

# By default RDKit rounds positions to single precision and leaves properties out.
_EVERYTHING = int(Chem.PropertyPickleOptions.AllProps | Chem.PropertyPickleOptions.CoordsAsDouble)


def pyarrow() -> Any:
    """The package.

    Raises:
        ReaderError: not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ImportError:
        raise ReaderError(INSTRUCTION) from None
    return arrow


def mol_to_bytes(mol: Chem.Mol) -> bytes:
    """The molecule with its conformers in double precision and the properties of everything."""
    return mol.ToBinary(_EVERYTHING)


def mol_from_bytes(data: bytes) -> Chem.Mol:
    """What `mol_to_bytes` wrote.

    Raises:
        ValueError: not a molecule.
    """
    try:
        with rdBase.BlockLogs():
            return Chem.Mol(data)  # type: ignore[call-overload]
    except RuntimeError as error:
        raise ValueError(f"{len(data)} bytes that are not an RDKit molecule") from error


def marked_columns(schema: Any) -> list[str]:
    """Names of the columns of molecules in a schema of pyarrow."""
    return [f.name for f in schema if (f.metadata or {}).get(b"rdgeodiff") == MARK[b"rdgeodiff"]]


def count_rows(stream: IO[bytes]) -> int:
    """Rows of the table."""
    return pyarrow().parquet.ParquetFile(stream).metadata.num_rows


def read_rows(
    stream: IO[bytes], smiles_column: str | None
) -> Iterator[tuple[int, str, str, Chem.Mol | None, str | None]]:
    """(row, name, text, molecule or None, error) of each row of a table.

    Args:
        stream: of the file; a pipe is read to its end first.
        smiles_column: read molecules from here; else from a marked column, else from the first
            column whose title contains "smiles". The other columns become properties.

    Raises:
        ReaderError: not such a table.
    """
    arrow = pyarrow()
    try:
        source = stream if stream.seekable() else arrow.BufferReader(stream.read())
        table = arrow.parquet.ParquetFile(source)
        titles = table.schema_arrow.names
    except arrow.ArrowException as error:
        raise ReaderError(f"not a Parquet file ({error})") from None
    marked = [] if smiles_column else marked_columns(table.schema_arrow)
    wanted = [t for t in titles if (t == smiles_column if smiles_column else "smiles" in t.lower())]
    if not (marked or wanted):
        raise ReaderError(f"no column of molecules or SMILES; there are: {', '.join(titles)}")
    column = (marked or wanted)[0]
    # A table of pandas keeps its index in columns with names of this kind.
    rest = [t for t in titles if t != column and not t.startswith("__index_level_")]
    named = next((t for t in titles if t.lower() in _NAME_COLUMNS), None)
    start = 0
    for batch in table.iter_batches(_BATCH):
        for row, cells in enumerate(batch.to_pylist(), start):
            mol, why = mol_of_cell(cells[column])
            name = str(cells[named]) if named and cells[named] is not None else ""
            if mol is not None:
                name = name or (mol.GetProp("_Name") if mol.HasProp("_Name") else "")
                for title in rest:
                    value = cells[title]
                    if title != named and isinstance(value, str | int | float | bool):
                        mol.SetProp(title, str(value))
            text = cells[column] if isinstance(cells[column], str) else name
            yield row, name, text, mol, why
        start += batch.num_rows


def mol_of_cell(cell: Any) -> tuple[Chem.Mol | None, str | None]:
    """(molecule or None, error) of a cell: SMILES, binary form, or nothing."""
    if isinstance(cell, bytes):
        try:
            return mol_from_bytes(cell), None
        except ValueError as error:
            return None, str(error)
    if isinstance(cell, str) and cell:
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(cell)
        return mol, None if mol is not None else f"{cell!r} is not a SMILES RDKit accepts"
    return None, "the cell is empty"
