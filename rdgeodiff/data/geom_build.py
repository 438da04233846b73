"""GEOM → shards to train on, or archives to evaluate on, one molecule at a time.

A run can be stopped at any molecule and called again: it goes on after the last complete file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rdgeodiff.data.conformer_sets import write_archive
from rdgeodiff.data.geom import GeomError, Source
from rdgeodiff.data.geom_ensembles import Ensemble, SkipCause, SkippedError, clean
from rdgeodiff.data.restricted_pickle import PickleError, PickleRefusedError
from rdgeodiff.data.shards import Reference, write_shard

logger = logging.getLogger(__name__)

KINDS = ("shard", "archive")
CONFORMERS_PER_FILE = 100_000


@dataclass
class BuildReport:
    """What became of the molecules; stands as JSON beside the files.

    Attributes:
        done: molecules looked at.
        molecules, conformers: written.
        skipped: cause → molecules not written.
        dropped: cause → conformers not written, of molecules that were.
        stereo_changed: molecules whose SMILES in GEOM says another stereochemistry.
        files: names of the files, in order.
    """

    done: int = 0
    molecules: int = 0
    conformers: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    stereo_changed: int = 0
    files: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Counts in a few lines, with nothing uncounted."""
        lines = [
            f"{self.molecules} molecules, {self.conformers} conformers in {len(self.files)} files; "
            f"{self.done - self.molecules} of {self.done} molecules skipped"
        ]
        for title, counts in (("skipped", self.skipped), ("conformers dropped", self.dropped)):
            if counts:
                causes = ", ".join(f"{c} {n}" for c, n in sorted(counts.items()))
                lines.append(f"{title}: {causes}")
        if self.stereo_changed:
            lines.append(f"stereochemistry taken from the conformers: {self.stereo_changed}")
        return "\n".join(lines)


def build_geom(
    source: Source,
    folder: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    *,
    stem: str = "part",
    kind: str = "shard",
    conformers: int = 0,
    least: int = 1,
    max_atoms: int = 0,
    conformers_per_file: int = CONFORMERS_PER_FILE,
    progress: bool = True,
) -> BuildReport:
    """Write `folder`/`stem`-0000.npz and so on, `stem`.json and `stem`.skipped.tsv.

    Args:
        source: where the molecules are.
        folder: made if need be; a run that was stopped there is continued.
        names: molecules to take, in this order; all of the source by default.
        stem: begins the names of the files.
        kind: "shard" (features, for training) or "archive" (SMILES, for evaluation).
        conformers, least, max_atoms: see `geom_ensembles.clean`.
        conformers_per_file: a file is closed when it has this many.
        progress: show a bar that counts molecules.

    Raises:
        GeomError: what lies in `folder` was made with other settings, or nothing could be taken.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    folder = Path(folder)
    names = list(source.names if names is None else names)
    settings = {
        "source": source.title,
        "names_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "kind": kind,
        "conformers": conformers,
        "least": least,
        "max_atoms": max_atoms,
        "conformers_per_file": conformers_per_file,
    }
    folder.mkdir(parents=True, exist_ok=True)
    report = _resumed(folder / f"{stem}.json", settings)
    table = folder / f"{stem}.skipped.tsv"
    if report.done == 0:
        table.write_text("name\tcause\treason\n", encoding="utf-8")
    with tqdm(
        total=len(names), initial=report.done, desc=source.title, unit="mol", disable=not progress
    ) as bar:
        while report.done < len(names):
            part = _Part(report, source, conformers, least, max_atoms)
            ensembles = part.take(names, conformers_per_file, bar)
            file = folder / f"{stem}-{len(report.files):04d}.npz"
            if ensembles:
                _write(file, kind, ensembles)
            _append(table, part.skipped)
            part.enter(file.name)
            content = {"settings": settings, "report": dataclasses.asdict(report)}
            _replace(folder / f"{stem}.json", json.dumps(content, indent=1) + "\n")
    if not report.files:
        raise GeomError(f"{source.title}: nothing could be taken ({report.skipped})")
    return report


class _Part:
    """One output file under construction; it enters the report when it is on disk."""

    def __init__(
        self, report: BuildReport, source: Source, conformers: int, least: int, max_atoms: int
    ) -> None:
        self._report, self._source = report, source
        self._limits = {"conformers": conformers, "least": least, "max_atoms": max_atoms}
        self._ensembles: list[Ensemble] = []
        self._looked_at = 0
        self.skipped: list[tuple[str, str, str]] = []

    def take(self, names: Sequence[str], limit: int, bar: Any) -> list[Ensemble]:
        """Ensembles of the molecules from the report's position on, until there are enough."""
        size = 0
        for name in names[self._report.done :]:
            self._looked_at += 1
            try:
                ensemble = _ensemble(self._source, name, self._limits)
            except SkippedError as error:
                self.skipped.append((name, error.cause.value, str(error)))
            else:
                self._ensembles.append(ensemble)
                size += len(ensemble.reference.positions)
            bar.update()
            if size >= limit:
                break
        return self._ensembles

    def enter(self, file: str) -> None:
        """Add this part's counts to the report."""
        report = self._report
        report.done += self._looked_at
        report.molecules += len(self._ensembles)
        report.conformers += sum(len(e.reference.positions) for e in self._ensembles)
        report.stereo_changed += sum(e.stereo_changed for e in self._ensembles)
        for _, cause, _ in self.skipped:
            report.skipped[cause] = report.skipped.get(cause, 0) + 1
        for ensemble in self._ensembles:
            for cause, count in ensemble.dropped.items():
                report.dropped[cause] = report.dropped.get(cause, 0) + count
        if self._ensembles:
            report.files.append(file)


def read_ensembles(
    source: Source, names: Sequence[str] | None = None, **limits: int
) -> Iterator[Ensemble]:
    """Ensembles of a source without writing anything; what is skipped is logged."""
    for name in source.names if names is None else names:
        try:
            yield _ensemble(source, name, limits)
        except SkippedError as error:
            logger.warning("%s: skipped, %s (%s)", name, error.cause.value, error)


def _ensemble(source: Source, name: str, limits: dict[str, int]) -> Ensemble:
    """One molecule; SkippedError whatever is wrong with it."""
    try:
        return clean(source.read(name), **limits)
    except (KeyError, FileNotFoundError) as error:
        raise SkippedError(SkipCause.MISSING_FILE, f"not there ({error})") from error
    except PickleRefusedError as error:
        logger.warning("%s: %s", name, error)
        raise SkippedError(SkipCause.REFUSED_PICKLE, str(error)) from error
    except (OSError, PickleError, GeomError) as error:
        raise SkippedError(SkipCause.DAMAGED, str(error)) from error


def _write(path: Path, kind: str, ensembles: Sequence[Ensemble]) -> None:
    if kind == "archive":
        write_archive(path, [e.reference for e in ensembles])
    else:
        write_shard(path, (Reference(e.graph, e.reference.positions) for e in ensembles))


def _resumed(path: Path, settings: dict[str, Any]) -> BuildReport:
    if not path.exists():
        return BuildReport()
    try:
        content = json.loads(path.read_text())
        found, values = content["settings"], content["report"]
    except (ValueError, KeyError, TypeError) as error:
        raise GeomError(f"{path}: not the report of such a run ({error})") from error
    if found != settings:
        other = ", ".join(k for k in settings if found.get(k) != settings[k])
        raise GeomError(f"{path}: made with another {other}; name another folder")
    return BuildReport(**values)


def _append(path: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        for row in rows:
            stream.write("\t".join(" ".join(cell.split()) for cell in row) + "\n")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text)
    os.replace(temporary, path)
