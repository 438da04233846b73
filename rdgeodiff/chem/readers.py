"""Molecule files in, conformer files out: one bad record costs that record and nothing else."""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rdkit import Chem, rdBase

_SMILES, _CSV, _SDF = (".smi", ".smiles"), (".csv",), (".sdf", ".sd")
_SEPARATOR = "$$$$"
_NAME_COLUMNS = ("name", "id", "title", "_name", "molecule", "compound")


class ReaderError(ValueError):
    """A file of a kind that is not read or written; names it."""


@dataclass(frozen=True)
class Record:
    """One molecule of a file, or the reason why it could not be read.

    Attributes:
        row: 0-based number of the record in its file.
        name: title in the file, else "mol" and the 1-based number.
        text: the SMILES as written, or an SDF record's title.
        mol: None where `error` says why.
        error: a sentence, or None.
    """

    row: int
    name: str
    text: str
    mol: Chem.Mol | None
    error: str | None = None


def read_molecules(path: str | os.PathLike[str], add_hs: bool | None = None) -> Iterator[Record]:
    """Records of a .smi, .csv (first column) or .sdf file, each also as .gz.

    Args:
        path: the file. Blank lines and, in .smi files, lines that start with # are no records; a
            CSV header is recognised by a first cell that contains "smiles".
        add_hs: add explicit hydrogens; by default to molecules from SMILES only.

    Raises:
        ReaderError: unknown ending.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    kind = _kind(path)
    sources = {_SMILES: _smiles_lines, _CSV: _csv_rows, _SDF: _sdf_blocks}
    hydrogens = kind is not _SDF if add_hs is None else add_hs
    row = -1
    with _open(path, "r") as stream:
        try:
            for row, (text, name) in enumerate(sources[kind](stream)):
                name = name or f"mol{row + 1}"
                if kind is _SDF:
                    yield _from_sdf(row, name, text, hydrogens)
                else:
                    yield _from_smiles(row, name, text, hydrogens)
        except (EOFError, OSError, zlib.error) as error:
            # What came before the damage is still good.
            yield Record(row + 1, f"mol{row + 2}", "", None, f"the file is damaged here ({error})")


def count_molecules(path: str | os.PathLike[str]) -> int | None:
    """Records in the file, for a progress bar; None where that cannot be told."""
    path = Path(path)
    sources = {_SMILES: _smiles_lines, _CSV: _csv_rows, _SDF: _sdf_blocks}
    try:
        with _open(path, "r") as stream:
            return sum(1 for _ in sources[_kind(path)](stream))
    except (EOFError, OSError, zlib.error):
        return None


class ConformerWriter:
    """Writes one SDF record per conformer; use as a context manager.

    Args:
        path: .sdf or .sdf.gz; an existing file is replaced when the first molecule is written, or
            at the end, so that a call that fails at once leaves it alone.

    Raises:
        ReaderError: another ending.
        OSError: no such folder, or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        if _kind(self._path) is not _SDF:
            raise ReaderError(f"{path}: conformers are written as .sdf or .sdf.gz")
        if not self._path.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {self._path.parent}")
        self._stream: TextIO | None = None
        self._writer: Chem.SDWriter | None = None

    def write(
        self, mol: Chem.Mol, conf_ids: Sequence[int], name: str, properties: Mapping[str, str]
    ) -> None:
        """Write the named conformers of `mol`, which keeps its own properties unchanged."""
        writer = self._opened()
        copy = Chem.Mol(mol)
        copy.SetProp("_Name", name)
        for key, value in properties.items():
            copy.SetProp(key, value)
        for conf_id in conf_ids:
            copy.SetIntProp("rdgeodiff_conformer", conf_id)
            writer.write(copy, confId=conf_id)
        # A run that is stopped keeps the molecules finished so far.
        writer.flush()

    def _opened(self) -> Chem.SDWriter:
        if self._writer is None:
            self._stream = _open(self._path, "w")
            self._writer = Chem.SDWriter(self._stream)
        return self._writer

    def __enter__(self) -> ConformerWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._opened()
        if self._writer is not None and self._stream is not None:
            self._writer.close()
            self._stream.close()


def _kind(path: Path) -> tuple[str, ...]:
    name = path.name.lower().removesuffix(".gz")
    for kind in (_SMILES, _CSV, _SDF):
        if name.endswith(kind):
            return kind
    raise ReaderError(f"{path}: unknown kind of file; known: .smi, .csv and .sdf, also with .gz")


def _open(path: Path, mode: str) -> TextIO:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, mode + "t", encoding="utf-8", errors="replace", newline="")  # type: ignore


def _smiles_lines(stream: TextIO) -> Iterator[tuple[str, str]]:
    for line in stream:
        parts = line.split(maxsplit=1)
        if parts and not parts[0].startswith("#"):
            yield parts[0], parts[1].strip() if len(parts) > 1 else ""


def _csv_rows(stream: TextIO) -> Iterator[tuple[str, str]]:
    rows = csv.reader(stream)
    name_column: int | None = None
    first = True
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"<{error}>", ""
            continue
        if not any(c.strip() for c in cells):
            continue
        if first and "smiles" in cells[0].lower():
            titles = [c.strip().lower() for c in cells]
            name_column = next((titles.index(n) for n in _NAME_COLUMNS if n in titles), None)
        else:
            has_name = name_column is not None and name_column < len(cells)
            yield cells[0].strip(), cells[name_column].strip() if has_name else ""  # type: ignore
        first = False


def _sdf_blocks(stream: TextIO) -> Iterator[tuple[str, str]]:
    lines: list[str] = []
    for line in stream:
        if line.startswith(_SEPARATOR):
            yield "".join(lines), lines[0].strip() if lines else ""
            lines = []
        else:
            lines.append(line)
    if any(line.strip() for line in lines):
        yield "".join(lines), lines[0].strip()


def _from_smiles(row: int, name: str, text: str, add_hs: bool) -> Record:
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text) if text else None
    if mol is None:
        return Record(row, name, text, None, f"{text!r} is not a SMILES RDKit accepts")
    return Record(row, name, text, Chem.AddHs(mol) if add_hs else mol)


def _from_sdf(row: int, name: str, text: str, add_hs: bool) -> Record:
    supplier = Chem.SDMolSupplier()
    with rdBase.BlockLogs():
        try:
            supplier.SetData(text + _SEPARATOR + "\n", removeHs=False)
            mol = supplier[0] if len(supplier) else None
        except (OSError, RuntimeError, IndexError):
            mol = None
    if mol is None:
        return Record(row, name, name, None, "not a record RDKit can read")
    return Record(row, name, name, Chem.AddHs(mol, addCoords=True) if add_hs else mol)
