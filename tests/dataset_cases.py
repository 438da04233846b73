"""A build of a few SMILES, and the entries that come of it."""

from __future__ import annotations

from pathlib import Path

from rdgeodiff.datasets.build import build_dataset
from rdgeodiff.datasets.journal import Entry, read_entries
from rdgeodiff.datasets.recipe import Recipe

RECIPE = Recipe(conformers=3, seeds=5, window=50.0)


def build(folder: Path, *lines: str, recipe: Recipe = RECIPE, **options) -> list[Entry]:
    """Entries by row of a build of `lines`."""
    folder.mkdir(exist_ok=True)
    source = folder / "in.smi"
    source.write_text("".join(f"{line}\n" for line in lines))
    build_dataset(source, folder / "out", recipe, progress=False, **options)
    return sorted(read_entries(folder / "out"), key=lambda entry: entry.row)
