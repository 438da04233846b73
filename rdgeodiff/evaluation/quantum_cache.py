"""Single points kept in a file, so that an interrupted run need not start again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from pathlib import Path

import numpy as np
from rdkit import Chem

from rdgeodiff.evaluation.quantum import QuantumProgram, SinglePoint, electronic_state


class CachedProgram:
    """A program whose results are appended to a file and looked up there first.

    Failures are not kept: they are tried again. A line that does not parse, as a killed process
    leaves it, is a result that is missing.

    Args:
        program: computes what is not in the file.
        path: a result a line, as JSON; made where it does not exist.
    """

    def __init__(self, program: QuantumProgram, path: str | os.PathLike[str]) -> None:
        self.name, self.level = program.name, program.level
        self._program, self._path, self._lock = program, Path(path), threading.Lock()
        self._known: dict[str, SinglePoint] = {}
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                key = entry.pop("key")
                self._known[key] = SinglePoint(**entry)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue

    def single_point(self, mol: Chem.Mol, positions: np.ndarray) -> SinglePoint:
        """As the program's own; raises QuantumError."""
        key = self._key(mol, positions)
        found = self._known.get(key)
        if found is None:
            found = self._program.single_point(mol, positions)
            entry = {"key": key, **dataclasses.asdict(found)}
            with self._lock, self._path.open("a") as stream:
                # In front, so that a line cut off by a kill spoils no other.
                stream.write("\n" + json.dumps(entry))
            self._known[key] = found
        return found

    def _key(self, mol: Chem.Mol, positions: np.ndarray) -> str:
        numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
        digest = hashlib.sha256(repr((self.name, self.level, electronic_state(mol))).encode())
        digest.update(np.array(numbers, "<i4").tobytes())
        digest.update(np.round(np.asarray(positions) * 1e6).astype("<i8").tobytes())
        return digest.hexdigest()
