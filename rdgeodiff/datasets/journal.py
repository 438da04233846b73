"""The account of a build: a header line, then one line of JSON per settled molecule.

A line holds everything that was made of its molecule, so that the file alone is the build. It is
appended when the molecule is settled; a last line torn by a crash is cut off when the build goes
on, and its molecule is made again.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rdgeodiff.chem.xtb import HARTREE
from rdgeodiff.datasets.made import Made

NAME = "molecules.jsonl"
FORMAT = 1
_KEY = "rdgeodiff_dataset"


class JournalError(ValueError):
    """A folder that belongs to another build, or was changed by somebody else."""


@dataclass(frozen=True)
class Entry:
    """One settled molecule.

    Attributes:
        row: of the input, from 0.
        name, text: as in the input.
        smiles: with all stereo chosen; "" where it was refused.
        cause: why there are no conformers, None where there are.
        why: a sentence, where the molecule was refused.
        drawn: seeds.
        losses: cause → seeds lost.
        unrelaxed: MMFF94s did not know it.
        energies: (C,) total energies in kcal/mol.
        positions: (C, N, 3) in Å, each centred.
        seconds: of wall-clock time.
    """

    row: int
    name: str
    text: str
    smiles: str = ""
    cause: str | None = None
    why: str = ""
    drawn: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    unrelaxed: bool = False
    energies: np.ndarray = field(default_factory=lambda: np.zeros(0))
    positions: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3)))
    seconds: float = 0.0

    @classmethod
    def of(cls, row: int, name: str, text: str, made: Made, seconds: float) -> Entry:
        """What was made, as it will be read back."""
        energies = np.round(made.energies / HARTREE, 9) * HARTREE
        return cls(
            row,
            name,
            text,
            made.smiles,
            made.cause,
            "",
            made.drawn,
            dict(sorted(made.losses.items())),
            made.unrelaxed,
            energies,
            _packed(made.positions) / 1000.0,
            seconds,
        )

    def to_line(self) -> dict[str, Any]:
        """Plain values."""
        line: dict[str, Any] = {"row": self.row, "name": self.name, "input": self.text}
        if self.smiles:
            line |= {"smiles": self.smiles, "drawn": self.drawn, "losses": self.losses}
            line |= {"unrelaxed": self.unrelaxed, "seconds": round(self.seconds, 3)}
        if self.cause:
            line |= {"cause": self.cause, "why": self.why}
        else:
            thousandths = np.rint(1000.0 * self.positions).astype("<i2")
            line |= {
                "hartree": [round(e / HARTREE, 9) for e in self.energies.tolist()],
                "coords": base64.b85encode(zlib.compress(thousandths.tobytes())).decode(),
            }
        return line

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> Entry:
        """Inverse of `to_line`; raises ValueError or KeyError for something else."""
        names = ("smiles", "drawn", "losses", "unrelaxed", "seconds", "why")
        fields = {name: line[name] for name in names if name in line}
        energies = np.array(line.get("hartree", []), float) * HARTREE
        positions = np.zeros((0, 0, 3))
        if len(energies):
            raw = zlib.decompress(base64.b85decode(line["coords"]))
            stored = np.frombuffer(raw, "<i2").reshape(len(energies), -1, 3)
            positions = stored.astype(np.float64) / 1000.0
        return cls(
            row=line["row"],
            name=line["name"],
            text=line["input"],
            cause=line.get("cause"),
            energies=energies,
            positions=positions,
            **fields,
        )


@dataclass
class Totals:
    """What became of the molecules settled so far."""

    molecules: int = 0
    complete: int = 0
    conformers: int = 0
    drawn: int = 0
    unrelaxed: int = 0
    seconds: float = 0.0
    without: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)

    def add(self, entry: Entry) -> None:
        """Count a molecule."""
        self.molecules += 1
        self.drawn += entry.drawn
        self.losses.update(entry.losses)
        self.unrelaxed += entry.unrelaxed
        self.seconds += entry.seconds
        if entry.cause:
            self.without[entry.cause] += 1
        else:
            self.complete += 1
            self.conformers += len(entry.energies)

    def summary(self) -> str:
        """Some lines for the user."""
        lines = [
            f"{self.complete} of {self.molecules} molecules with {self.conformers} conformers "
            f"from {self.drawn} seeds, {self.seconds:.0f} s"
        ]
        lines += [f"  no conformers, {cause}: {n}" for cause, n in self.without.most_common()]
        lines += [f"  seeds lost, {cause}: {n}" for cause, n in self.losses.most_common()]
        if self.unrelaxed:
            lines.append(
                f"  {self.unrelaxed} molecules without MMFF94s parameters: not pre-relaxed"
            )
        return "\n".join(lines)


class Journal:
    """The journal of a folder whose lock the caller holds.

    Attributes:
        totals: of all settled molecules.
        rows: of the input that are settled.

    Args:
        folder: of the build.
        header: what decides its content.

    Raises:
        JournalError: begun with something else, or not a journal.
    """

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        self._path = folder / NAME
        self.totals = Totals()
        self.rows: set[int] = set()
        header = json.loads(json.dumps({_KEY: FORMAT, **header}))
        if not self._path.exists() or not self._cut():
            with open(self._path, "wb") as stream:
                _append(stream, header)
        stored = read_header(folder)
        changed = [
            f"{name} was {stored.get(name)!r} and is {header.get(name)!r}"
            for name in sorted({*stored, *header})
            if stored.get(name) != header.get(name)
        ]
        if changed:
            raise JournalError(
                f"{folder}: begun with something else ({'; '.join(changed)}). "
                "Go on with the same, or take another folder"
            )
        for entry in read_entries(folder):
            self.rows.add(entry.row)
            self.totals.add(entry)
        self._stream = open(self._path, "ab")

    def append(self, entry: Entry) -> None:
        """Add a settled molecule, safe on the disk when this returns."""
        _append(self._stream, entry.to_line(), sync=entry.cause is None)
        self.rows.add(entry.row)
        self.totals.add(entry)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _cut(self) -> bool:
        """Cut off a torn last line; whether anything is left."""
        with open(self._path, "r+b") as stream:
            blob = stream.read()
            whole = blob.rfind(b"\n") + 1
            stream.truncate(whole)
        return whole > 0


def read_header(folder: Path) -> dict[str, Any]:
    """The first line of the journal; raises JournalError where there is none."""
    try:
        with open(folder / NAME, "rb") as stream:
            header = json.loads(stream.readline())
    except (OSError, ValueError) as error:
        raise JournalError(f"{folder}: holds no build that was begun ({error})") from error
    if not isinstance(header, dict) or header.get(_KEY) != FORMAT:
        raise JournalError(f"{folder}: not a build this version can read")
    return header


def read_entries(folder: Path) -> Iterator[Entry]:
    """Settled molecules in the order they were settled, also while a build writes more.

    Raises:
        JournalError: a damaged line; names it.
    """
    read_header(folder)
    with open(folder / NAME, "rb") as stream:
        for number, raw in enumerate(stream, 1):
            if number == 1 or not raw.endswith(b"\n"):
                continue
            try:
                yield Entry.from_line(json.loads(raw))
            except (ValueError, KeyError, TypeError, zlib.error) as error:
                raise JournalError(f"{folder / NAME}: line {number} is damaged: {error}") from error


def _append(stream: Any, line: dict[str, Any], sync: bool = True) -> None:
    stream.write(json.dumps(line).encode() + b"\n")
    stream.flush()
    if sync:
        os.fsync(stream.fileno())


def _packed(positions: list[np.ndarray]) -> np.ndarray:
    """Centred positions in whole thousandths of an Å, float64."""
    if not positions:
        return np.zeros((0, 0, 3))
    stacked = np.stack(positions)
    return np.rint(1000.0 * (stacked - stacked.mean(1, keepdims=True)))
