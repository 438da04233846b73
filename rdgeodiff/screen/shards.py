"""Shards on the disk: written under a temporary name, forced to the disk, then renamed."""

from __future__ import annotations

import gzip
import hashlib
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdgeodiff.chem.writers import ParquetWriter, conformer_block, labelled
from rdgeodiff.rows import FAILED, OK, PreparedRow

FORMATS = ("sdf.gz", "parquet")
_UNFINISHED = ".tmp"


@dataclass
class Shard:
    """Consecutive rows that become one file.

    Attributes:
        index: number of the shard.
        first, stop: range of rows.
        rows: their molecules and results.
        seconds: wall-clock time in the network.
    """

    index: int
    first: int
    stop: int
    rows: list[PreparedRow]
    seconds: float = 0.0


def write_shard(
    folder: Path, shard: Shard, kind: str, properties: Mapping[str, str]
) -> dict[str, Any]:
    """Put the shard in its place and return its line for the manifest.

    Args:
        folder: of the screen.
        shard: with its results.
        kind: one of FORMATS.
        properties: facts about the run, written with each molecule.

    Raises:
        OSError: the disk is full, say; then nothing is left of the shard.
    """
    target = folder / f"shard-{shard.index:06d}.{kind}"
    # A name of its own: a worker that was given up may still be writing the same shard.
    unfinished = folder / f".{target.name}.{secrets.token_hex(4)}{_UNFINISHED}"
    writers: dict[str, Callable[..., None]] = {"sdf.gz": _write_sdf, "parquet": _write_parquet}
    try:
        writers[kind](unfinished, shard.rows, properties)
        with open(unfinished, "r+b") as stream:
            os.fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = os.fstat(stream.fileno()).st_size
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    return {**_account(shard), "file": target.name, "bytes": size, "sha256": digest}


def remove_unfinished(folder: Path) -> None:
    """Remove what a crash left half written."""
    for path in folder.glob(f".shard-*{_UNFINISHED}"):
        path.unlink()


def _account(shard: Shard) -> dict[str, Any]:
    failures: Counter[str] = Counter()
    for row in shard.rows:
        failures.update({str(cause): n for cause, n in row.result.failures.items() if n})
    lacking = [row for row in shard.rows if row.status != OK]
    return {
        "shard": shard.index,
        "rows": [shard.first, shard.stop],
        "molecules": len(shard.rows),
        "complete": len(shard.rows) - len(lacking),
        "without": sum(row.status == FAILED for row in lacking),
        "requested": sum(row.result.requested for row in shard.rows),
        "conformers": sum(len(row.result.conf_ids) for row in shard.rows),
        "failures": dict(sorted(failures.items())),
        "lacking": [
            [r.record.row, r.record.name, r.record.text, len(r.result.conf_ids), r.why]
            for r in lacking
        ],
        "seconds": round(shard.seconds, 3),
    }


def _write_sdf(path: Path, rows: Sequence[PreparedRow], properties: Mapping[str, str]) -> None:
    # Without a time or a name in the header, the same records are the same bytes.
    with open(path, "wb") as plain, gzip.GzipFile("", "wb", 6, plain, mtime=0) as stream:
        for row in rows:
            if row.record.mol is None or not row.result.conf_ids:
                continue
            mol = labelled(row.record, properties)
            for conf_id in row.result.conf_ids:
                stream.write(conformer_block(mol, conf_id).encode())


def _write_parquet(path: Path, rows: Sequence[PreparedRow], properties: Mapping[str, str]) -> None:
    with ParquetWriter(path) as writer:
        for row in rows:
            writer.write(row.record, row.result, properties)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
