"""Conformers in pandas frames, in the manner of RDKit's PandasTools.

A frame of a library is never clean: cells hold None, NaN, pd.NA, text that is no SMILES, molecules
without atoms. Every row stays where it is, and what went wrong stands in a column of its own.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np
from rdkit import Chem, rdBase

from rdgeodiff.chem.conformers import ENERGY, set_property
from rdgeodiff.chem.parquet import MARK, marked_columns, pyarrow
from rdgeodiff.conformer_properties import (
    MolFromBinaryWithProps,
    MolToBinaryWithProps,
    WriteConformersToSDF,
)
from rdgeodiff.embed import EmbedMoleculesDiffusion, Params
from rdgeodiff.results import EmbedResult

try:
    import pandas as pd
except ImportError:
    raise ImportError("frames need pandas: pip install 'rdgeodiff[pandas]'") from None

_INT32 = 2**31


def AddConformersToFrame(
    frame: pd.DataFrame,
    smilesCol: Hashable | None = None,
    molCol: Hashable = "ROMol",
    numConfs: int | Sequence[int] = 10,
    params: Params = None,
    errorCol: Hashable | None = "Error",
    inplace: bool = True,
    addHs: bool = True,
    **overrides: Any,
) -> pd.DataFrame | None:
    """Add conformers to the molecules of a frame.

    Rows, their order and the index stay as they are. A row that fails keeps its cell, without
    conformers, and the cause goes to `errorCol`.

    Args:
        frame: any index, duplicate labels included.
        smilesCol: make the molecules from here, into `molCol`; by default they are there already.
        molCol: column of molecules. Those that lack hydrogens are replaced by copies with them.
            One Mol in several rows becomes several.
        numConfs: conformers wanted of each, or one number per row.
        params: as in `EmbedMoleculeDiffusion`.
        errorCol: column for sentences and counted causes, None where all went well; replaced if it
            is there. None for no such column.
        inplace: change `frame` and its molecules; otherwise leave both alone and return a new one.
        addHs: add the hydrogens that are missing.
        **overrides: single parameters by name, as in `EmbedMoleculeDiffusion`.

    Returns:
        The new frame; None if `inplace`.

    Raises:
        KeyError: no such column.
        TypeError, ValueError: as `EmbedMoleculesDiffusion`, or a column title that is not unique.
    """
    cells = _cells(frame, molCol if smilesCol is None else smilesCol)
    read = _mol_of_cell if smilesCol is None else _mol_of_smiles
    mols: list[Chem.Mol | None] = []
    errors: list[str | None] = []
    seen: set[int] = set()
    for cell in cells:
        mol, error = read(cell)
        if mol is not None:
            # Two rows that share a Mol would share their conformers.
            fresh = not inplace or id(mol) in seen
            seen.add(id(mol))
            mol = Chem.Mol(mol) if fresh else mol
            mol = _with_hydrogens(mol) if addHs else mol
        mols.append(mol)
        errors.append(error)
    results = EmbedMoleculesDiffusion(mols, numConfs, params, **overrides)
    told = [e or _why(r) for e, r in zip(errors, results, strict=True)]
    kept = mols
    if smilesCol is None:
        kept = [c if m is None else m for c, m in zip(cells, mols, strict=True)]
    target = frame if inplace else frame.copy()
    target[molCol] = _objects(kept, target.index)
    if errorCol is not None:
        target[errorCol] = _objects(told, target.index)
    return None if inplace else target


def ExplodeConformers(
    frame: pd.DataFrame,
    molCol: Hashable = "ROMol",
    confIdCol: Hashable = "ConformerId",
    energyCol: Hashable = "Energy",
    keepEmpty: bool = True,
) -> pd.DataFrame:
    """A frame with one row per conformer; `frame` stays as it is.

    Args:
        frame: with molecules.
        molCol: their column; each molecule of the result has one conformer, which keeps its id.
        confIdCol: new column for the id of the conformer.
        energyCol: new column for energies in kcal/mol, where conformers have the property
            `rdgeodiff_energy`.
        keepEmpty: a row without conformers stays, with a missing id, as `DataFrame.explode` does.

    Returns:
        Rows in the order of `frame` and of the conformers; labels of the index are repeated.

    Raises:
        KeyError: no such column.
        ValueError: a new column is there already.
    """
    cells = _cells(frame, molCol)
    rows: list[int] = []
    mols: list[Any] = []
    ids: list[Any] = []
    energies: list[float] = []
    for row, cell in enumerate(cells):
        conformers = cell.GetConformers() if isinstance(cell, Chem.Mol) else ()
        for conformer in conformers:
            rows.append(row)
            mols.append(Chem.Mol(cell, confId=conformer.GetId()))
            ids.append(conformer.GetId())
            has = conformer.HasProp(ENERGY)
            energies.append(conformer.GetDoubleProp(ENERGY) if has else float("nan"))
        if keepEmpty and not len(conformers):
            rows.append(row)
            mols.append(cell)
            ids.append(pd.NA)
            energies.append(float("nan"))
    exploded = frame.iloc[rows].copy()
    new: dict[Hashable, Any] = {confIdCol: pd.array(ids, dtype="Int64")}
    if not np.isnan(energies).all():
        new[energyCol] = np.array(energies)
    for title, values in new.items():
        if title in frame.columns:
            raise ValueError(f"the frame has a column {title!r} already: name another one")
        exploded[title] = values
    exploded[molCol] = _objects(mols, exploded.index)
    return exploded


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
    cells = _cells(frame, molCol)
    titles = [c for c in frame.columns if c != molCol] if properties is None else list(properties)
    columns = {str(title): _cells(frame, title) for title in titles}
    names: list[Any] | None = None
    if idName is not None:
        names = list(frame.index) if idName == "RowID" else _cells(frame, idName)

    def records() -> Iterator[Chem.Mol | None]:
        for row, cell in enumerate(cells):
            if _missing(cell):
                yield None
                continue
            if not isinstance(cell, Chem.Mol):
                yield cell  # the writer says what is wrong with it
                continue
            mol = Chem.Mol(cell)
            if names is not None:
                mol.SetProp("_Name", str(names[row]))
            for title, values in columns.items():
                if not _missing(values[row]):
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
        plain[title] = _objects(stored, plain.index)
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
        frame[title] = _objects(mols, frame.index)
    return frame


def _cells(frame: pd.DataFrame, title: Hashable) -> list[Any]:
    """The values of a column, by position."""
    if title not in frame.columns:
        known = ", ".join(map(repr, frame.columns))
        raise KeyError(f"the frame has no column {title!r}; there are: {known}")
    column = frame[title]
    if not isinstance(column, pd.Series):
        raise ValueError(f"the frame has several columns {title!r}")
    return column.tolist()


def _objects(values: Sequence[Any], index: pd.Index) -> pd.Series:
    """A column of Python objects as they are: without the dtype, pandas turns None into NaN."""
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = value
    return pd.Series(column, index=index, dtype=object)


def _missing(cell: Any) -> bool:
    if isinstance(cell, Chem.Mol | str):
        return False
    return cell is None or bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def _mol_of_cell(cell: Any) -> tuple[Chem.Mol | None, str | None]:
    if isinstance(cell, Chem.Mol):
        return cell, None
    if _missing(cell):
        return None, "INVALID_INPUT: the cell is empty"
    hint = " (name the column of SMILES as smilesCol)" if isinstance(cell, str) else ""
    return None, f"INVALID_INPUT: {cell!r} is a {type(cell).__name__}, not a Mol{hint}"


def _mol_of_smiles(cell: Any) -> tuple[Chem.Mol | None, str | None]:
    if _missing(cell) or (isinstance(cell, str) and not cell.strip()):
        return None, "INVALID_INPUT: the cell is empty"
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(cell) if isinstance(cell, str) else None
    if mol is None:
        return None, f"INVALID_INPUT: {cell!r} is not a SMILES RDKit accepts"
    return mol, None


def _with_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    """`mol` itself where it has all its hydrogens, or cannot say."""
    try:
        with rdBase.BlockLogs():
            posed = mol.GetNumConformers() > 0
            return Chem.AddHs(mol, addCoords=posed) if Chem.NeedsHs(mol) else mol
    except RuntimeError:  # not sanitised; the embedding call says so
        return mol


def _why(result: EmbedResult) -> str | None:
    if result.ok:
        return None
    causes = ", ".join(f"{cause} {n}" for cause, n in result.failures.items() if n)
    if result.error is not None:
        return f"{next(iter(result.failures), '')}: {result.error}".removeprefix(": ")
    return f"{len(result.conf_ids)} of {result.requested} conformers; missing: {causes}"


def _plain(value: Any) -> Any:
    """A cell as a type that RDKit's properties know."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool | float | str):
        return value
    return value if isinstance(value, int) and abs(value) < _INT32 else str(value)


def _binary(cell: Any, row: int, title: Hashable) -> bytes | None:
    if isinstance(cell, Chem.Mol):
        return MolToBinaryWithProps(cell)
    if _missing(cell):
        return None
    kind = type(cell).__name__
    raise TypeError(f"row {row} of column {title!r} holds a {kind} between molecules")
