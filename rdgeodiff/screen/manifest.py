"""The account of a screen: a header line, then one line of JSON per finished shard.

A line is appended when its shard is safely in place, so that the file says at any moment what is
finished. A last line torn by a crash is cut off; its shard is made again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "manifest.jsonl"
FORMAT = 1


class ManifestError(ValueError):
    """A folder that belongs to another screen, or was changed by somebody else."""


@dataclass
class Totals:
    """What became of the rows of the finished shards."""

    shards: int = 0
    molecules: int = 0
    complete: int = 0
    without: int = 0
    requested: int = 0
    conformers: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, line: dict[str, Any]) -> None:
        """Count a shard by its line."""
        self.shards += 1
        self.molecules += line["molecules"]
        self.complete += line["complete"]
        self.without += line["without"]
        self.requested += line["requested"]
        self.conformers += line["conformers"]
        self.seconds += line["seconds"]
        self.failures.update(line["failures"])

    def summary(self) -> str:
        """Some lines for the user."""
        partly = self.molecules - self.complete - self.without
        lines = [
            f"{self.shards} shard{'s' * (self.shards != 1)}, {self.molecules} molecules: "
            f"{self.complete} complete, {partly} with fewer conformers, {self.without} without any",
            f"{self.conformers} of {self.requested} conformers written",
        ]
        lines += [f"  missing, {cause}: {n}" for cause, n in self.failures.most_common()]
        return "\n".join(lines)


class Manifest:
    """The manifest of a folder whose lock the caller holds.

    Attributes:
        totals: of all finished shards.
        next_row: first row that is not in a finished shard.
        header: the first line as stored, or None for a new folder.

    Raises:
        ManifestError: the file is not a manifest, or a shard it names is not there as it was.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self.totals = Totals()
        self.header: dict[str, Any] | None = None
        self.next_row = 0
        for line in self._read():
            if self.header is None:
                if line.get("rdgeodiff_screen") != FORMAT:
                    raise ManifestError(f"{self._path}: not a manifest this version can go on with")
                self.header = line
                self.next_row = line["rows"][0]
                continue
            self._check(folder, line)
            self._count(line)

    def begin(self, header: dict[str, Any]) -> None:
        """Store the header of a new screen, or make sure that this one goes on with its own.

        Raises:
            ManifestError: the folder was begun with other parameters or another input.
        """
        header = json.loads(json.dumps({"rdgeodiff_screen": FORMAT, **header}))
        if self.header is None:
            self._append(header)
            self.header = header
            self.next_row = header["rows"][0]
            return
        was, now = dict(_flat(self.header)), dict(_flat(header))
        changed = [
            f"{name} was {was.get(name)!r} and is {now.get(name)!r}"
            for name in sorted({*was, *now})
            # The same input under another name is the same input.
            if was.get(name) != now.get(name) and name != "input.name"
        ]
        if changed:
            raise ManifestError(
                f"{self._path.parent}: begun with something else ({'; '.join(changed)}). "
                "Go on with the same, or take another folder"
            )

    def append(self, line: dict[str, Any]) -> None:
        """Add a finished shard, safe on the disk when this returns."""
        self._append(line)
        self._count(line)

    def _count(self, line: dict[str, Any]) -> None:
        first, stop = line["rows"]
        if line["shard"] != self.totals.shards or first != self.next_row:
            raise ManifestError(
                f"{self._path}: shard {line['shard']} does not follow the one before"
            )
        self.next_row = stop
        self.totals.add(line)

    def _append(self, line: dict[str, Any]) -> None:
        with open(self._path, "ab") as stream:
            stream.write(json.dumps(line).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self) -> Iterator[dict[str, Any]]:
        """Lines that are whole; what a crash left at the end is cut off."""
        if not self._path.exists():
            return
        good = 0
        torn = False
        with open(self._path, "rb") as stream:
            for raw in stream:
                if torn:
                    raise ManifestError(f"{self._path}: damaged after byte {good}")
                line = _parsed(raw)
                if line is None:
                    torn = True
                    continue
                good += len(raw)
                yield line
        if torn:
            with open(self._path, "r+b") as stream:
                stream.truncate(good)
                os.fsync(stream.fileno())

    def _check(self, folder: Path, line: dict[str, Any]) -> None:
        path = folder / line["file"]
        size = path.stat().st_size if path.exists() else None
        if size != line["bytes"]:
            found = "is not there" if size is None else f"has {size} bytes, not {line['bytes']}"
            raise ManifestError(f"{path}: finished according to {self._path.name}, but {found}")


def _parsed(raw: bytes) -> dict[str, Any] | None:
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
