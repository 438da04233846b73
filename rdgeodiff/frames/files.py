"""Frames with conformers as SDF and Parquet."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.conformers import set_property
from rdgeodiff.chem.parquet import MARK, marked_columns, pyarrow
from rdgeodiff.conformer_properties import (
    MolFromBinaryWithProps,
    MolToBinaryWithProps,
    WriteConformersToSDF,
)
from rdgeodiff.frames.cells import cells_of, missing, objects, pd

_INT32 = 2**31


def WriteFrameToSDF(
    frame: pd.DataFrame,
    out: str | os.PathLike[str] | TextIO,
    molCol: Hashable = "ROMol",
    idName: Hashable | None = None,
    properties: Sequence[Hashable] | None = None,
) -> int:
    """Write every conformer of every molecule (`PandasTools.WriteSDF` writes one each).

    Args:
        frame: with molecules. Rows without conformers leave no record and are logged as a warning.
        out: .sdf or .sdf.gz, replaced; or a stream of text.
        molCol: column of the molecules.
        idName: column for the titles; "RowID" for the index. By default the molecules' own.
        properties: columns written as fields; all others than the molecules' by default. Missing
            values leave no field.

    Returns:
        The number of records.

    Raises:
        KeyError: no such column.
        TypeError, OSError: as `WriteConformersToSDF`.
    """
    cells = cells_of(frame, molCol)
    titles = [c for c in frame.columns if c != molCol] if properties is None else list(properties)
    columns = {str(title): cells_of(frame, title) for title in titles}
    names: list[Any] | None = None
    if idName is not None:
        names = list(frame.index) if idName == "RowID" else cells_of(frame, idName)

    def records() -> Iterator[Chem.Mol | None]:
        for row, cell in enumerate(cells):
            if missing(cell):
                yield None
                continue
            if not isinstance(cell, Chem.Mol):
                yield cell  # the writer says what is wrong with it
                continue
            mol = Chem.Mol(cell)
            if names is not None:
                mol.SetProp("_Name", str(names[row]))
            for title, values in columns.items():
                if not missing(values[row]):
                    set_property(mol, title, _plain(values[row]))
            yield mol

    return WriteConformersToSDF(records(), out)


def FrameToParquet(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a frame as Parquet; molecules keep coordinates, conformer ids and all properties.

    Columns whose values are molecules are found by themselves. Other columns and the index go
    through pyarrow as `DataFrame.to_parquet` sends them.

    Raises:
        ImportError: pyarrow is not installed.
        TypeError: something else between the molecules of a column; names row and column.
        ValueError: a column that Parquet cannot hold, or titles that are not unique or of
            several types.
    """
    arrow = pyarrow()
    if not frame.columns.is_unique:
        raise ValueError("Parquet needs titles of columns that are unique")
    if pd.api.types.infer_dtype(frame.columns).startswith("mixed"):
        raise ValueError("titles of columns of several types would all come back as text")
    plain = frame.copy(deep=False)
    marked = []
    for position, title in enumerate(frame.columns):
        cells = list(frame.iloc[:, position])
        if not any(isinstance(c, Chem.Mol) for c in cells):
            continue
        marked.append(position)
        stored = [_binary(c, row, title) for row, c in enumerate(cells)]
        plain[title] = objects(stored, plain.index)
    table = arrow.Table.from_pandas(plain)
    fields = [f.with_metadata(MARK) if k in marked else f for k, f in enumerate(table.schema)]
    schema = arrow.schema(fields, metadata=table.schema.metadata)
    arrow.parquet.write_table(table.cast(schema), path)


def FrameFromParquet(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The frame that `FrameToParquet`, or the command line with a .parquet output, wrote.

    Missing molecules come back as None.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: a cell of a column of molecules is damaged.
        OSError: no such file.
    """
    arrow = pyarrow()
    table = arrow.parquet.read_table(path)
    frame = table.to_pandas()
    titles = table.schema.names
    for name in marked_columns(table.schema):
        # Titles that are not text are text in the file; the order of columns is the frame's.
        title = frame.columns[titles.index(name)]
        cells = frame[title].tolist()
        mols = [MolFromBinaryWithProps(c) if isinstance(c, bytes) else None for c in cells]
        frame[title] = objects(mols, frame.index)
    return frame


def _plain(value: Any) -> Any:
    """A cell as a type that RDKit's properties know."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool | float | str):
        return value
    return value if isinstance(value, int) and abs(value) < _INT32 else str(value)


def _binary(cell: Any, row: int, title: Hashable) -> bytes | None:
    if isinstance(cell, Chem.Mol):
        return MolToBinaryWithProps(cell)
    if missing(cell):
        return None
    kind = type(cell).__name__
    raise TypeError(f"row {row} of column {title!r} holds a {kind} between molecules")
