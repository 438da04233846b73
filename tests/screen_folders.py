"""What lies in the folder of a screen."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

ROWS = 30


def finished(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()][1:]


def content(folder: Path) -> dict[str, bytes]:
    """Name → unzipped content of each finished shard; everything in the folder is accounted for."""
    lines = finished(folder)
    names = {line["file"] for line in lines}
    assert {p.name for p in folder.iterdir()} - {".lock"} == names | {"manifest.jsonl"}
    for line in lines:
        assert hashlib.sha256((folder / line["file"]).read_bytes()).hexdigest() == line["sha256"]
    return {name: gzip.decompress((folder / name).read_bytes()) for name in sorted(names)}
