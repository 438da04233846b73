"""Kinds of molecule files: by which ending they go, and how a file or a pipe of them is opened."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rdkit import Chem

# Ending → kind. Read by RDKit, or as tables; those of OPEN_BABEL need Open Babel.
KINDS = {
    **dict.fromkeys(("smi", "smiles", "ism", "can"), "smi"),
    **dict.fromkeys(("sdf", "sd", "mol", "mdl"), "sdf"),
    **dict.fromkeys(("pdb", "ent"), "pdb"),
    **dict.fromkeys(("parquet", "pq"), "parquet"),
    **{kind: kind for kind in ("csv", "tsv", "inchi", "mol2", "mae", "cdxml", "mrv")},
}
OPEN_BABEL = ("cml", "cdx", "hin", "mcdl", "pdbqt")
OUTPUT_KINDS = ("sdf", "parquet")
PIPE = "-"
_ZIPPED = b"\x1f\x8b"


class ReaderError(ValueError):
    """A file of a kind that is not read or written; names it."""


@dataclass(frozen=True)
class Record:
    """One molecule of a file, or the reason why it could not be read.

    Attributes:
        row: 0-based number of the record in its file.
        name: title in the file, else "mol" and the 1-based number.
        text: the SMILES as written, or a record's title.
        mol: None where `error` says why.
        error: a sentence, or None.
        damaged: nothing after this record could be read.
    """

    row: int
    name: str
    text: str
    mol: Chem.Mol | None
    error: str | None = None
    damaged: bool = False


def kind_of(path: str | os.PathLike[str], named: str | None = None) -> str:
    """The kind of a file, from its ending or from what the caller calls it ("smi", "sdf.gz", …).

    Raises:
        ReaderError: a kind that is not known, or a pipe of which the kind is not named.
    """
    if named is None and os.fspath(path) == PIPE:
        raise ReaderError("a pipe has no ending: say what comes or goes with --from and --to")
    name = (named or Path(path).name).lower().replace("maegz", "mae.gz").removesuffix(".gz")
    ending = name.rsplit(".", 1)[-1]
    if (named is not None or "." in name) and (ending in KINDS or ending in OPEN_BABEL):
        return KINDS.get(ending, ending)
    known = ", ".join(sorted({*KINDS, *OPEN_BABEL}))
    raise ReaderError(f"{named or path}: unknown kind of file; known: {known}, also with .gz")


def is_zipped(name: str | os.PathLike[str]) -> bool:
    """Whether a file of this name is compressed."""
    return Path(name).name.lower().endswith((".gz", ".maegz"))


@contextmanager
def open_source(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of standard input for "-", unzipped."""
    if os.fspath(path) != PIPE:
        with gzip.open(path, "rb") if is_zipped(path) else open(path, "rb") as stream:
            yield stream  # type: ignore[misc]
        return
    piped = sys.stdin.buffer
    # A pipe has no name to tell from; what it carries does.
    peek = getattr(piped, "peek", lambda n: b"")
    yield gzip.open(piped, "rb") if peek(2)[:2] == _ZIPPED else piped  # type: ignore[misc]
