"""Molecules from files and pipes: one bad record costs that record and nothing else.

Tables and SDF are read record by record; the formats of `foreign_formats` and Parquet as a whole.
"""

from __future__ import annotations

import csv
import io
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import IO, NamedTuple, TextIO

from rdkit import Chem, rdBase

from rdgeodiff.chem.foreign_formats import FOREIGN, read_foreign
from rdgeodiff.chem.formats import PIPE, ReaderError, Record, kind_of, open_source
from rdgeodiff.chem.parquet import count_rows, read_rows

__all__ = ["ReaderError", "Record", "count_molecules", "read_molecules", "with_hydrogens"]

_SEPARATOR = "$$$$"
_NAME_COLUMNS = ("name", "id", "title", "_name", "molecule", "compound")


class Entry(NamedTuple):
    """What a text file holds of one molecule, before it is parsed."""

    text: str
    name: str = ""
    properties: tuple[tuple[str, str], ...] = ()


def read_molecules(
    path: str | os.PathLike[str],
    add_hs: bool = True,
    *,
    kind: str | None = None,
    smiles_column: str | None = None,
    first: int = 0,
) -> Iterator[Record]:
    """Records of a file, in order. Names and properties stay with their molecules.

    Args:
        path: a file of any of `formats.KINDS`, also as .gz, or "-" for standard input. Blank lines
            and, in .smi files, lines that start with # are no records. The other columns of a table
            become properties of its molecules.
        add_hs: add the explicit hydrogens that are missing; the model knows molecules with
            hydrogens only.
        kind: the format, where the ending does not tell it.
        smiles_column: of a table; else the first whose title contains "smiles", else the first.
        first: row to begin with; what comes before is passed over without being parsed.

    Raises:
        ReaderError: unknown kind, no such column, or a format whose reader is not installed.
        OSError: the file cannot be opened.
    """
    kind = kind_of(path, kind)
    with open_source(path) as stream:
        for record in _records(stream, kind, smiles_column, first):
            yield with_hydrogens(record) if add_hs else record


def count_molecules(
    path: str | os.PathLike[str], *, kind: str | None = None, smiles_column: str | None = None
) -> int | None:
    """Records in the file, for a progress bar; None where that cannot be told beforehand."""
    kind = kind_of(path, kind)
    if os.fspath(path) == PIPE or kind in FOREIGN:
        return None
    try:
        with open_source(path) as stream:
            if kind == "parquet":
                return count_rows(stream)
            with _text(stream) as text:
                return sum(1 for _ in _sources(smiles_column)[kind](text))
    except (EOFError, OSError, zlib.error):
        return None


def _records(
    stream: IO[bytes], kind: str, smiles_column: str | None, first: int
) -> Iterator[Record]:
    row = -1
    try:
        if kind == "parquet":
            for row, name, text, mol, error in read_rows(stream, smiles_column):
                if row < first:
                    continue
                yield Record(row, name or f"mol{row + 1}", text, mol, error)
        elif kind in FOREIGN:
            for row, (name, mol, error) in enumerate(read_foreign(stream.read(), kind)):
                if row < first:
                    continue
                name = name or f"mol{row + 1}"
                yield Record(row, name, name, mol, error)
        else:
            parse = {"sdf": _from_sdf, "inchi": _from_inchi}.get(kind, _from_smiles)
            with _text(stream) as text_stream:
                for row, entry in enumerate(_sources(smiles_column)[kind](text_stream)):
                    if row >= first:
                        yield parse(row, entry)
    except (EOFError, OSError, zlib.error) as error:
        # What came before the damage is still good.
        why = f"the file is damaged here ({error})"
        yield Record(row + 1, f"mol{row + 2}", "", None, why, damaged=True)


def _text(stream: IO[bytes]) -> TextIO:
    # Spreadsheets put a byte-order mark before the first title.
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")


def _sources(smiles_column: str | None) -> dict[str, Callable[[TextIO], Iterator[Entry]]]:
    return {
        "smi": _smiles_lines,
        "inchi": _smiles_lines,
        "csv": partial(_table_rows, delimiter=",", smiles_column=smiles_column),
        "tsv": partial(_table_rows, delimiter="\t", smiles_column=smiles_column),
        "sdf": _sdf_blocks,
    }


def _smiles_lines(stream: TextIO) -> Iterator[Entry]:
    first = True
    for line in stream:
        parts = line.split(maxsplit=1)
        if not parts or parts[0].startswith("#"):
            continue
        if first and parts[0].lower() in ("smiles", "inchi"):
            first = False
            continue
        first = False
        text, name = parts[0], parts[1].strip() if len(parts) > 1 else ""
        if name.startswith("|") and name.count("|") > 1:
            # A CXSMILES extension belongs to the structure, not to the name.
            end = name.index("|", 1) + 1
            text, name = f"{text} {name[:end]}", name[end:].strip()
        yield Entry(text, name)


def _table_rows(stream: TextIO, *, delimiter: str, smiles_column: str | None) -> Iterator[Entry]:
    rows = csv.reader(stream, delimiter=delimiter)
    titles: list[str] | None = None
    column, name_column = 0, -1
    first = True
    while True:
        try:
            cells = [c.strip() for c in next(rows)]
        except StopIteration:
            return
        except csv.Error as error:
            yield Entry(f"<{error}>")
            continue
        if not any(cells):
            continue
        if first:
            first = False
            lower = [c.lower() for c in cells]
            if smiles_column is not None and smiles_column not in cells:
                raise ReaderError(f"no column {smiles_column!r}; there are: {', '.join(cells)}")
            if smiles_column is not None or any("smiles" in c for c in lower):
                titles = cells
                column = (
                    cells.index(smiles_column)
                    if smiles_column is not None
                    else next(k for k, c in enumerate(lower) if "smiles" in c)
                )
                name_column = next((lower.index(n) for n in _NAME_COLUMNS if n in lower), -1)
                continue
        rest = [k for k in range(len(cells)) if k not in (column, name_column)]
        yield Entry(
            cells[column] if column < len(cells) else "",
            cells[name_column] if 0 <= name_column < len(cells) else "",
            tuple((titles[k], cells[k]) for k in rest if titles and k < len(titles) and titles[k]),
        )


def _sdf_blocks(stream: TextIO) -> Iterator[Entry]:
    lines: list[str] = []
    for line in stream:
        if line.startswith(_SEPARATOR):
            yield Entry("".join(lines), lines[0].strip() if lines else "")
            lines = []
        else:
            lines.append(line)
    if any(line.strip() for line in lines):
        yield Entry("".join(lines), lines[0].strip())


def _from_smiles(row: int, entry: Entry) -> Record:
    name = entry.name or f"mol{row + 1}"
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(entry.text) if entry.text else None
    if mol is None:
        return Record(row, name, entry.text, None, f"{entry.text!r} is not a SMILES RDKit accepts")
    for title, value in entry.properties:
        mol.SetProp(title, value)
    return Record(row, name, entry.text, mol)


def _from_inchi(row: int, entry: Entry) -> Record:
    name = entry.name or f"mol{row + 1}"
    with rdBase.BlockLogs():
        mol = Chem.MolFromInchi(entry.text, removeHs=False)
    error = None if mol is not None else f"{entry.text!r} is not an InChI RDKit accepts"
    return Record(row, name, entry.text, mol, error)


def _from_sdf(row: int, entry: Entry) -> Record:
    name = entry.name or f"mol{row + 1}"
    supplier = Chem.SDMolSupplier()
    text = entry.text if entry.text.endswith("\n") else entry.text + "\n"
    with rdBase.BlockLogs():
        try:
            supplier.SetData(f"{text}{_SEPARATOR}\n", removeHs=False)
            mol = supplier[0] if len(supplier) else None
        except (OSError, RuntimeError, IndexError):
            mol = None
    error = None if mol is not None else "not a record RDKit can read"
    return Record(row, name, name, mol, error)


def with_hydrogens(record: Record) -> Record:
    """The record with the explicit hydrogens that are missing."""
    if record.mol is None:
        return record
    placed = record.mol.GetNumConformers() > 0
    mol = Chem.AddHs(record.mol, addCoords=placed)
    return replace(record, mol=mol)
