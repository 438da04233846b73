"""A library in one file or in many, with one numbering of its rows, read in slices anywhere."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rdgeodiff.chem.formats import ReaderError, Record, kind_of
from rdgeodiff.chem.readers import count_molecules, read_molecules
from rdgeodiff.screen.beginning import identity_of
from rdgeodiff.screen.reading import undamaged


@dataclass(frozen=True)
class Library:
    """Files in order; row numbers run through all of them.

    Attributes:
        files: of any kinds `read_molecules` knows.
        counts: records of each.
    """

    files: tuple[Path, ...]
    counts: tuple[int, ...]

    @property
    def size(self) -> int:
        """Records of all files."""
        return sum(self.counts)

    def read(self, first: int, stop: int, add_hs: bool) -> Iterator[Record]:
        """Records of the rows first ≤ row < stop.

        Raises:
            OSError: a file is damaged, or shorter than it was.
        """
        before = 0
        for path, count in zip(self.files, self.counts, strict=True):
            begin, end = max(first - before, 0), min(stop - before, count)
            if begin < end:
                yield from self._read_file(path, before, begin, end, add_hs)
            before += count

    def _read_file(
        self, path: Path, before: int, begin: int, end: int, add_hs: bool
    ) -> Iterator[Record]:
        row = begin - 1
        for record in undamaged(read_molecules(path, add_hs, first=begin), path):
            row = record.row
            if row >= end:
                return
            yield replace(record, row=before + row) if before else record
        if row < end - 1:
            raise OSError(f"{path}: had {end} records or more, and ends after {row + 1}")

    def identity(self) -> dict[str, Any]:
        """As `identity_of` for one file; for several, one sum over theirs."""
        each = [identity_of(path) for path in self.files]
        if len(each) == 1:
            return each[0]
        digest = hashlib.sha256("".join(one["sha256"] for one in each).encode()).hexdigest()
        total = sum(one["bytes"] for one in each)
        return {"name": f"{len(each)} files", "bytes": total, "sha256": digest}


def files_of(source: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The file; or of a folder all files of kinds that are read, by name.

    Raises:
        ReaderError: a file of another kind, or a folder without any.
        FileNotFoundError: not there.
    """
    path = Path(source)
    if not path.is_dir():
        kind_of(path)
        path.stat()
        return (path,)
    found = tuple(sorted(p for p in path.iterdir() if p.is_file() and _is_read(p)))
    if not found:
        raise ReaderError(f"{path}: no file of molecules in this folder")
    return found


def _is_read(path: Path) -> bool:
    try:
        kind_of(path)
    except ReaderError:
        return False
    return not path.name.startswith((".", "_"))


def count_records(path: Path) -> int:
    """Records of a file, by reading it all.

    Raises:
        OSError: damaged.
    """
    count = count_molecules(path)
    if count is not None:
        return count
    return sum(1 for _ in undamaged(read_molecules(path, add_hs=False), path))
