"""Shards that are finished while one before them is not.

The manifest names shards in their order. With many workers the first to be finished is seldom the
first; what comes early waits here, on the disk too, so that a stop does not cost it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rdgeodiff.screen.manifest import Manifest

NAME = ".waiting.jsonl"


class Waiting:
    """Accounts on their way into the manifest of a folder whose lock the caller holds.

    Args:
        folder: of the screen.
        manifest: its manifest, begun; gets at once what an earlier call left waiting for it.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._path, self._manifest = folder / NAME, manifest
        self._lines: dict[int, dict[str, Any]] = {}
        for line in self._stored():
            path = folder / line["file"]
            if path.exists() and path.stat().st_size == line["bytes"]:
                self._lines[line["shard"]] = line
        self._settle()

    @property
    def shards(self) -> frozenset[int]:
        """Numbers of those that wait."""
        return frozenset(self._lines)

    @property
    def molecules(self) -> int:
        """Rows of those that wait."""
        return sum(line["molecules"] for line in self._lines.values())

    def add(self, line: dict[str, Any]) -> None:
        """Take the account of a finished shard; safe on the disk when this returns."""
        self._lines[line["shard"]] = line
        if line["shard"] != self._manifest.totals.shards:
            with open(self._path, "ab") as stream:
                stream.write(json.dumps(line).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        self._settle()

    def _settle(self) -> None:
        while (line := self._lines.pop(self._manifest.totals.shards, None)) is not None:
            self._manifest.append(line)
        if not self._lines:
            self._path.unlink(missing_ok=True)

    def _stored(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        found = []
        for raw in self._path.read_bytes().splitlines():
            try:
                line = json.loads(raw)
            except ValueError:
                continue  # torn by a crash: its shard is made again
            if line["shard"] >= self._manifest.totals.shards:
                found.append(line)
        return found
