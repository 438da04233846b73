"""Which molecules of GEOM are for training, validation and test, as the papers say.

Two schemes are in use. ConfGF and GeoDiff draw molecules from the summary with a seeded shuffle;
`confgf_split` draws the same ones. GeoMol and Torsional Diffusion publish index files
(`split0.npy`) that count in the alphabetical order of the pickles; `read_split` reads those, and
the JSON lists of names that `write_split` writes.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdgeodiff.data.geom import GeomError
from rdgeodiff.data.restricted_pickle import load_npy

PARTS = ("train", "val", "test")
SEED = 2021
CONFORMERS = 5  # of each molecule for training and validation; molecules with fewer are left out
MOLECULES = 50_000  # drawn for training, validation and a rest that is not used
TRAIN, VALIDATION = 0.8, 0.1
TEST_MOLECULES = 200
# Conformers that a test molecule has.
TEST_RANGE = {"qm9": (50, 500), "drugs": (50, 100)}


def confgf_split(
    summary: Mapping[str, Mapping[str, Any]],
    dataset: str,
    *,
    molecules: int = MOLECULES,
    tests: int = TEST_MOLECULES,
) -> dict[str, list[str]]:
    """The split of ConfGF, which GeoDiff uses: 40,000 / 5,000 / 200 pickle paths by part.

    The order of the summary decides what the seed draws, so it must be the file of the release as
    it is.

    Args:
        summary: SMILES → entry with `uniqueconfs` and `pickle_path`.
        dataset: "qm9" or "drugs".
        molecules, tests: how many are drawn, the published numbers by default.

    Raises:
        GeomError: fewer molecules than are to be drawn.
    """
    sizes = {
        str(entry["pickle_path"]): int(entry["uniqueconfs"])
        for entry in summary.values()
        if entry.get("pickle_path") is not None and entry.get("uniqueconfs") is not None
    }
    generator = random.Random(SEED)
    drawn = [path for path, count in sizes.items() if count >= CONFORMERS]
    _enough(drawn, molecules, f"with {CONFORMERS} conformers")
    generator.shuffle(drawn)
    drawn = drawn[:molecules]
    order = list(range(molecules))
    generator.shuffle(order)
    first, second = int(molecules * TRAIN), int(molecules * (TRAIN + VALIDATION))
    # Within a part the molecules stay in the order in which they were drawn.
    train, val = ([drawn[k] for k in sorted(part)] for part in (order[:first], order[first:second]))
    least, most = TEST_RANGE[dataset]
    taken = {*train, *val}
    rest = [p for p, count in sizes.items() if least <= count <= most and p not in taken]
    _enough(rest, tests, f"with {least} to {most} conformers")
    random.Random(SEED).shuffle(rest)
    return {"train": train, "val": val, "test": rest[:tests]}


def read_split(path: str | os.PathLike[str], part: str, names: Sequence[str] = ()) -> list[str]:
    """Names of the molecules of one part.

    Args:
        path: .json: a list of names, or a dictionary of such lists by part. .npy: numbers into
            `names`, or the three arrays of train, validation and test.
        part: "train", "val" or "test"; of no meaning where the file holds a single list.
        names: what the numbers of an .npy file count, see `GeomFolder.sorted_names`.

    Raises:
        OSError: no such file.
        PickleError: an array file that asks for more than arrays.
        GeomError: another kind of file, or numbers outside `names`.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return _picked(load_npy(path), path, part, names)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GeomError(f"{path}: a split is .npy or .json ({error})") from error
    if isinstance(content, dict):
        if part not in content:
            raise GeomError(f"{path}: has no part {part!r}, but {', '.join(map(str, content))}")
        content = content[part]
    if not (isinstance(content, list) and all(isinstance(n, str) for n in content)):
        raise GeomError(f"{path}: not a list of names")
    return content


def write_split(path: str | os.PathLike[str], split: Mapping[str, Sequence[str]]) -> None:
    """Write lists of names by part, for `read_split`."""
    Path(path).write_text(json.dumps({k: list(v) for k, v in split.items()}, indent=0) + "\n")


def _picked(array: np.ndarray, path: Path, part: str, names: Sequence[str]) -> list[str]:
    parts = array.ndim == 2 or (array.dtype == object and array.ndim == 1)
    if parts:
        if len(array) != len(PARTS):
            raise GeomError(f"{path}: {len(array)} parts, not {len(PARTS)}")
        array = np.asarray(array[PARTS.index(part)])
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise GeomError(f"{path}: not numbers of molecules")
    if len(array) and (array.min() < 0 or array.max() >= len(names)):
        raise GeomError(
            f"{path}: numbers from {array.min()} to {array.max()}, and {len(names)} molecules; "
            "it was made for another copy of the data"
        )
    return [names[k] for k in np.sort(array).tolist()]


def _enough(found: Sequence[str], wanted: int, what: str) -> None:
    if len(found) < wanted:
        raise GeomError(f"{wanted} molecules to draw, and only {len(found)} {what}")
