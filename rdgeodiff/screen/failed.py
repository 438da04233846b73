"""A table of the molecules that lack conformers, from the account a screen keeps."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rdgeodiff.screen.manifest import NAME

TITLES = ("row", "name", "input", "delivered", "requested", "why")


def write_failed(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> int:
    """Write the molecules of the finished shards that lack conformers, tab-separated.

    Args:
        folder: of a screen that does not run.
        path: replaced; the columns are those of `embed --failed`.

    Returns:
        The number of molecules.

    Raises:
        OSError: a file cannot be read or written.
    """
    found = 0
    with (
        open(Path(folder) / NAME, encoding="utf-8") as account,
        open(path, "w", encoding="utf-8") as table,
    ):
        table.write("\t".join(TITLES) + "\n")
        wanted = json.loads(next(account))["count"]
        for line in account:
            for row, name, text, delivered, why in json.loads(line)["lacking"]:
                cells = (row, name, text, delivered, wanted, why)
                # A tab or an end of line within a cell would shift the table.
                table.write("\t".join(" ".join(str(cell).split()) for cell in cells) + "\n")
                found += 1
    return found
