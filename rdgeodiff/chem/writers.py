"""Conformers into files and pipes: SDF with a record each, Parquet with a row per molecule."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from rdkit import Chem

from rdgeodiff.chem.formats import OUTPUT_KINDS, PIPE, ReaderError, Record, is_zipped, kind_of
from rdgeodiff.chem.parquet import MARK, mol_to_bytes, pyarrow
from rdgeodiff.chem.sdf_records import conformer_block
from rdgeodiff.results import EmbedResult


class ConformerWriter(Protocol):
    """Takes every molecule of a run, those without conformers included; a context manager."""

    def write(
        self, record: Record, result: EmbedResult | None, properties: Mapping[str, str]
    ) -> None:
        """Write one molecule, which keeps its own properties unchanged.

        Args:
            record: the molecule as it was read.
            result: what came of it; None where it could not be read.
            properties: facts about the run, written with each molecule.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_writer(path: str | os.PathLike[str], kind: str | None = None) -> ConformerWriter:
    """A writer of .sdf, .sdf.gz or .parquet, or of standard output for "-".

    An existing file is replaced when the first molecule is written, or at the end, so that a call
    that fails at once leaves it alone.

    Raises:
        ReaderError: another kind, or pyarrow is missing.
        FileNotFoundError: no such folder.
    """
    found = kind_of(path, kind)
    if found not in OUTPUT_KINDS:
        raise ReaderError(f"{kind or path}: conformers are written as .sdf, .sdf.gz or .parquet")
    if os.fspath(path) != PIPE and not Path(path).parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {Path(path).parent}")
    return SdfWriter(path, kind) if found == "sdf" else ParquetWriter(path)


class _FileOrPipe:
    """A target that is opened late; standard output is left open."""

    def __init__(self, path: str | os.PathLike[str], zipped: bool) -> None:
        self._path = path
        self._zipped = zipped
        self._stream: IO[bytes] | None = None

    def stream(self) -> IO[bytes]:
        if self._stream is None:
            plain = sys.stdout.buffer if os.fspath(self._path) == PIPE else self._path
            if self._zipped:
                self._stream = gzip.open(plain, "wb")  # type: ignore[assignment]
            else:
                self._stream = open(plain, "wb") if plain is self._path else sys.stdout.buffer
        assert self._stream is not None
        return self._stream

    def close(self) -> None:
        if self._stream is sys.stdout.buffer:
            self._stream.flush()
        elif self._stream is not None:
            self._stream.close()


class SdfWriter:
    """One record per conformer, with the molecule's name and properties."""

    def __init__(self, path: str | os.PathLike[str], kind: str | None = None) -> None:
        self._target = _FileOrPipe(path, is_zipped(kind or path))

    def write(
        self, record: Record, result: EmbedResult | None, properties: Mapping[str, str]
    ) -> None:
        """See `ConformerWriter`; a molecule without conformers leaves no trace in an SDF."""
        if record.mol is None or result is None or not result.conf_ids:
            return
        copy = labelled(record, properties)
        stream = self._target.stream()
        for conf_id in result.conf_ids:
            stream.write(conformer_block(copy, conf_id).encode())
        # A run that is stopped keeps the molecules finished so far.
        stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._target.stream()
        self._target.close()


class ParquetWriter:
    """One row per molecule of the input, failed ones included, in its order.

    Columns: name, input, ROMol (see `parquet.mol_to_bytes`), requested, delivered, failures (JSON),
    error, and the facts about the run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._arrow = pyarrow()
        self._target = _FileOrPipe(path, zipped=False)
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def write(
        self, record: Record, result: EmbedResult | None, properties: Mapping[str, str]
    ) -> None:
        """See `ConformerWriter`."""
        error = record.error if result is None else result.error
        mol = labelled(record, {}) if record.mol is not None else None
        self._rows.append(
            {
                "name": record.name,
                "input": record.text,
                "ROMol": None if mol is None else mol_to_bytes(mol),
                "requested": None if result is None else result.requested,
                "delivered": 0 if result is None else len(result.conf_ids),
                "failures": json.dumps({} if result is None else dict(result.failures)),
                "error": error,
                "rdgeodiff_model": properties.get("rdgeodiff_model"),
                "rdgeodiff_seed": properties.get("rdgeodiff_seed"),
            }
        )
        if len(self._rows) >= 1024:
            self._store()

    def _store(self) -> None:
        arrow = self._arrow
        kinds = dict.fromkeys(("requested", "delivered"), arrow.int64())
        names = ("name", "input", "ROMol", "requested", "delivered", "failures", "error")
        fields = [arrow.field(n, kinds.get(n, arrow.string())) for n in names]
        fields[2] = arrow.field("ROMol", arrow.binary(), metadata=MARK)
        fields += [arrow.field(n, arrow.string()) for n in ("rdgeodiff_model", "rdgeodiff_seed")]
        schema = arrow.schema(fields)
        if self._writer is None:
            self._writer = arrow.parquet.ParquetWriter(self._target.stream(), schema)
        self._writer.write_table(arrow.Table.from_pylist(self._rows, schema=schema))
        self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or self._rows:
            self._store()
        if self._writer is not None:
            self._writer.close()
        self._target.close()


def labelled(record: Record, properties: Mapping[str, str]) -> Chem.Mol:
    """A copy of the record's molecule (there is one) with its name and `properties` on it."""
    assert record.mol is not None
    copy = Chem.Mol(record.mol)
    # A line break in a title would shift every line of the block below it.
    copy.SetProp("_Name", " ".join(record.name.split()))
    for key, value in properties.items():
        copy.SetProp(key, value)
    return copy
