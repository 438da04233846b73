"""A file of molecules in, a file of conformers out, with an account of what is missing."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rdgeodiff.chem.formats import PIPE, Record
from rdgeodiff.chem.readers import count_molecules, read_molecules
from rdgeodiff.chem.writers import ConformerWriter, open_writer
from rdgeodiff.embed import EmbedMoleculesDiffusion
from rdgeodiff.parameters import DiffusionEmbedParameters
from rdgeodiff.pictures.html_report import RunReport
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
        conformers: written so far.
        interrupted: the run was stopped; the molecules finished until then are written.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._molecules = self._complete = self.conformers = 0
        self._causes: Counter[str] = Counter()
        self._unrelaxed: Counter[str] = Counter()
        self.failed: list[FailedMolecule] = []
        self.interrupted = False

    def add(self, record: Record, result: EmbedResult | None) -> None:
        """Count one molecule; `result` is None where it could not be read."""
        self._molecules += 1
        if result is None:
            self._causes[FailureCause.INVALID_INPUT] += self._wanted
            self._fail(record, 0, record.error or "")
            return
        self.conformers += len(result.conf_ids)
        causes = {str(cause): n for cause, n in result.failures.items() if n}
        self._causes.update(causes)
        self._unrelaxed.update(result.unrelaxed)
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
            f"{self.conformers} of {self._molecules * self._wanted} conformers written",
        ]
        lines += [f"  missing, {cause}: {count}" for cause, count in self._causes.most_common()]
        lines += [f"  not relaxed, {why}: {count}" for why, count in self._unrelaxed.most_common()]
        if self.interrupted:
            lines.append("interrupted: the rest of the file was not attempted")
        return "\n".join(lines)

    def _fail(self, record: Record, delivered: int, why: str) -> None:
        self.failed.append(FailedMolecule(record.row, record.name, record.text, delivered, why))


class _Run:
    """Where the molecules of one run go."""

    def __init__(
        self, writer: ConformerWriter, tally: Tally, report: RunReport | None, bar: Any
    ) -> None:
        self._writer, self._tally, self._report, self._bar = writer, tally, report, bar
        self._start = time.monotonic()

    def embed(self, chunk: list[Record], count: int, options: dict[str, Any]) -> None:
        """Embed the molecules of `chunk` in one call and hand them on, in order."""
        readable = [r for r in chunk if r.mol is not None]
        seed = options["randomSeed"]
        # Molecules of different chunks must not share random streams.
        call = {**options, "randomSeed": seed if seed < 0 else seed + chunk[0].row}
        made = EmbedMoleculesDiffusion([r.mol for r in readable], count, **call) if readable else []
        results = {r.row: result for r, result in zip(readable, made, strict=True)}
        for row, one in results.items():
            if one.error is not None:
                # The call counted its own molecules; the user counts those of the file.
                one.error = re.sub(r"^molecule \d+\b", f"molecule {row}", one.error)
        told = {"rdgeodiff_model": options["model"], "rdgeodiff_seed": str(seed)}
        for record in chunk:
            result = results.get(record.row)
            self._writer.write(record, result, told)
            self._tally.add(record, result)
            if self._report is not None:
                self._report.add(record, result)
        rate = self._tally.conformers / max(time.monotonic() - self._start, 1e-6)
        self._bar.set_postfix_str(
            f"{rate:.1f} conformers/s, {len(self._tally.failed)} failed", refresh=False
        )
        self._bar.update(len(chunk))


def embed_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    count: int,
    *,
    add_hs: bool = True,
    failed: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    source_kind: str | None = None,
    target_kind: str | None = None,
    smiles_column: str | None = None,
    progress: bool = True,
    params: DiffusionEmbedParameters | None = None,
    **options: Any,
) -> Tally:
    """Embed every molecule of `source` and write its conformers to `target`.

    Args:
        source: see `read_molecules`; "-" for standard input.
        target: see `open_writer`; replaced. "-" for standard output.
        count: conformers a molecule.
        add_hs: add the hydrogens that are missing.
        failed: file for the table of molecules that lack conformers.
        report: file for an HTML page on the run.
        source_kind, target_kind: formats, where endings do not tell them.
        smiles_column: of a table.
        progress: show a bar that counts molecules.
        params: settings of the call, in place of the defaults.
        options: single attributes of `DiffusionEmbedParameters`; they win over `params`.

    Raises:
        ReaderError, OSError: a file of an unknown kind, or one that cannot be opened.
        CheckpointError: no such model.
        AttributeError, TypeError, ValueError: an option that is none, or has a wrong value.
    """
    piped = PIPE in (os.fspath(source), os.fspath(target))
    if not piped and Path(source).resolve() == Path(target).resolve():
        raise ValueError(f"{target}: input and output are the same file")
    for side in (failed, report):
        if side is not None and not Path(side).parent.is_dir():
            raise FileNotFoundError(f"{side}: there is no folder {Path(side).parent}")
    settings = (params or DiffusionEmbedParameters()).updated(**options)
    call = {f.name: getattr(settings, f.name) for f in fields(settings)} | {"progress": False}
    tally = Tally(count)
    page = RunReport(count, settings) if report is not None else None
    reading: dict[str, Any] = {"kind": source_kind, "smiles_column": smiles_column}
    with (
        open_writer(target, target_kind) as writer,
        tqdm(total=count_molecules(source, **reading), unit="mol", disable=not progress) as bar,
    ):
        run = _Run(writer, tally, page, bar)
        chunk: list[Record] = []
        try:
            for record in read_molecules(source, add_hs, **reading):
                chunk.append(record)
                if len(chunk) == CHUNK:
                    run.embed(chunk, count, call)
                    chunk = []
            if chunk:
                run.embed(chunk, count, call)
        except KeyboardInterrupt:
            tally.interrupted = True
    if failed is not None:
        tally.write_failed(failed)
    if page is not None and report is not None:
        page.write(report, tally.summary())
    return tally
