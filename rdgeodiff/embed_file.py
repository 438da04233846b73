"""A file of molecules in, a file of conformers out, with an account of what is missing."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rdgeodiff.chem.readers import ConformerWriter, Record, count_molecules, read_molecules
from rdgeodiff.embed import EmbedMoleculesDiffusion
from rdgeodiff.results import EmbedResult, FailureCause

CHUNK = 16  # molecules embedded together; part of what a seed means, so it is fixed


@dataclass(frozen=True)
class FailedMolecule:
    """A molecule with fewer conformers than asked for."""

    row: int
    name: str
    text: str
    delivered: int
    why: str


class Tally:
    """What became of the molecules of a run.

    Attributes:
        failed: the molecules that lack conformers.
        interrupted: the run was stopped; the molecules finished until then are written.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._molecules = self._complete = self._conformers = 0
        self._causes: Counter[str] = Counter()
        self.failed: list[FailedMolecule] = []
        self.interrupted = False

    def add(self, record: Record, result: EmbedResult | None) -> None:
        """Count one molecule; `result` is None where it could not be read."""
        self._molecules += 1
        if result is None:
            self._causes[FailureCause.INVALID_INPUT] += self._wanted
            self._fail(record, 0, record.error or "")
            return
        self._conformers += len(result.conf_ids)
        causes = {str(cause): n for cause, n in result.failures.items() if n}
        self._causes.update(causes)
        if result.ok:
            self._complete += 1
        else:
            text = ", ".join(f"{cause} {n}" for cause, n in causes.items())
            self._fail(record, len(result.conf_ids), result.error or text)

    def write_failed(self, path: str | os.PathLike[str]) -> None:
        """Write the molecules that lack conformers as a tab-separated table."""
        rows = [("row", "name", "input", "delivered", "requested", "why")]
        rows += [
            (str(f.row), f.name, f.text, str(f.delivered), str(self._wanted), f.why)
            for f in self.failed
        ]
        lines = ("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)
        Path(path).write_text("".join(lines), encoding="utf-8")

    def summary(self) -> str:
        """Some lines for the user: molecules, conformers, causes."""
        without = sum(f.delivered == 0 for f in self.failed)
        lines = [
            f"{self._molecules} molecules: {self._complete} complete, "
            f"{len(self.failed) - without} with fewer conformers, {without} without any",
            f"{self._conformers} of {self._molecules * self._wanted} conformers written",
        ]
        lines += [f"  missing, {cause}: {count}" for cause, count in self._causes.most_common()]
        if self.interrupted:
            lines.append("interrupted: the rest of the file was not attempted")
        return "\n".join(lines)

    def _fail(self, record: Record, delivered: int, why: str) -> None:
        self.failed.append(FailedMolecule(record.row, record.name, record.text, delivered, why))


def embed_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    count: int,
    *,
    add_hs: bool | None = None,
    failed: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **options: Any,
) -> Tally:
    """Embed every molecule of `source` and write its conformers to `target`.

    Args:
        source: see `read_molecules`.
        target: .sdf or .sdf.gz; replaced.
        count: conformers a molecule.
        add_hs: add hydrogens; by default to molecules from SMILES only.
        failed: file for the table of molecules that lack conformers.
        progress: show a bar that counts molecules.
        options: attributes of `DiffusionEmbedParameters`.

    Raises:
        ReaderError, OSError: a file of an unknown kind, or one that cannot be opened.
        CheckpointError: no such model.
    """
    if Path(source).resolve() == Path(target).resolve():
        raise ValueError(f"{target}: input and output are the same file")
    tally = Tally(count)
    total = count_molecules(source)
    chunk: list[Record] = []
    with (
        ConformerWriter(target) as writer,
        tqdm(total=total, unit="mol", disable=not progress) as bar,
    ):
        try:
            for record in read_molecules(source, add_hs):
                chunk.append(record)
                if len(chunk) == CHUNK:
                    _embed_chunk(chunk, count, options, writer, tally)
                    bar.update(len(chunk))
                    chunk = []
            if chunk:
                _embed_chunk(chunk, count, options, writer, tally)
                bar.update(len(chunk))
        except KeyboardInterrupt:
            tally.interrupted = True
    if failed is not None:
        tally.write_failed(failed)
    return tally


def _embed_chunk(
    chunk: list[Record], count: int, options: dict[str, Any], writer: ConformerWriter, tally: Tally
) -> None:
    readable = [r for r in chunk if r.mol is not None]
    seed = options.get("randomSeed", -1)
    # Molecules of different chunks must not share random streams.
    options = {**options, "randomSeed": seed if seed < 0 else seed + chunk[0].row}
    made = EmbedMoleculesDiffusion([r.mol for r in readable], count, **options) if readable else []
    results = {r.row: result for r, result in zip(readable, made, strict=True)}
    told = {"rdgeodiff_model": str(options.get("model", "default")), "rdgeodiff_seed": str(seed)}
    for record in chunk:
        result = results.get(record.row)
        if record.mol is not None and result is not None and result.conf_ids:
            writer.write(record.mol, list(result.conf_ids), record.name, told)
        tally.add(record, result)
