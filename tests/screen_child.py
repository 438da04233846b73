"""A screen in a process of its own, for tests that kill it.

The network is a script: positions are those of ETKDG, and some samples fail, so that there are
rounds, causes and molecules without conformers. Everything else is the real thing.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom

import rdgeodiff.opening
from rdgeodiff import DiffusionEmbedParameters
from rdgeodiff.results import FailureCause
from rdgeodiff.screen import manifest, screen_library, shards

SMILES = ("CO", "CN", "C=O", "CF", "C#N")  # told apart by size and place in the library
_POSITIONS: dict[str, np.ndarray] = {}


def library(path: Path, size: int, bad: tuple[int, ...] = (3,)) -> Path:
    """A file of `size` rows; those in `bad` do not parse."""
    rows = ["C1CC" if k in bad else SMILES[k % len(SMILES)] for k in range(size)]
    path.write_text("".join(f"{smiles} m{k}\n" for k, smiles in enumerate(rows)))
    return path


def positions(smiles: str) -> np.ndarray:
    """(N, 3) in Å."""
    if smiles not in _POSITIONS:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
        _POSITIONS[smiles] = mol.GetConformer().GetPositions()
    return _POSITIONS[smiles]


class FakePipeline:
    """Answers as a function of the key of the random stream alone, as the real one does."""

    device = SimpleNamespace(type="cpu")

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause

    def sample(self, requests: Any, *, on_result: Any, **how: Any) -> None:
        for r in requests:
            time.sleep(self.pause)
            key = r.seed + 7 * r.row + 3 * r.conformer + r.attempt
            if r.row % 11 == 5 or (r.attempt == 0 and key % 3 == 0):
                on_result(r, FailureCause.NONFINITE)
                continue
            shift = np.array([key % 100, r.row, r.conformer]) * 0.5
            on_result(r, positions(SMILES[r.row % len(SMILES)]) + shift)


def fake(pause: float = 0.0) -> dict[str, Any]:
    """What stands in for names of `rdgeodiff.opening`."""
    return {
        "open_source": lambda settings: FakePipeline(pause),
        "shared_model": lambda name, device: SimpleNamespace(info={"sha256": "none"}),
    }


def run(source: Path, folder: Path, pause: float = 0.0, die_at: int = 0, **options: Any) -> None:
    """Screen; with `die_at`, killed at the disk operation of that number."""
    for name, stand_in in fake(pause).items():
        setattr(rdgeodiff.opening, name, stand_in)
    if die_at:
        _die_at(die_at)
    screen(source, folder, **options)


def screen(source: Path, folder: Path, **options: Any) -> Any:
    """The call all tests make."""
    call = {"shard": 4, "progress": False, "randomSeed": 5, "maxIterations": 3, **options}
    return screen_library(source, folder, 2, **call)


def _die_at(number: int) -> None:
    """Kill this process before its disk operation `number`, half-way through if it writes."""
    count = 0

    def counted(name: str) -> Any:
        real = getattr(os, name)

        def operation(*args: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return operation

    append = manifest.Manifest._append

    def torn(self: Any, line: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count == number:
            with open(self._path, "ab") as stream:
                stream.write(b'{"shard": 0, "rows"')
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, line)

    stand_ins = {name: counted(name) for name in ("replace", "fsync", "open")}
    for module in (shards, manifest):
        module.os = SimpleNamespace(**{**vars(os), **stand_ins})  # type: ignore[attr-defined]
    manifest.Manifest._append = torn  # type: ignore[method-assign]


def settings() -> DiffusionEmbedParameters:
    """Parameters of `screen`, for comparison with a plain call."""
    return DiffusionEmbedParameters(randomSeed=5, maxIterations=3)
