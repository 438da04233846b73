"""A small checkpoint of the original code, and copies of it with something changed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from original_fixtures import FIXTURES

CHECKPOINT = FIXTURES / "tiny_checkpoint.pt"


def rewritten(path: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Copy an archive; `change` sees each member's last name and gives its content, None: drop."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = change(entry.filename.partition("/")[2], old.read(entry))
            if content is not None:
                new.writestr(entry.filename, content)
    return target
