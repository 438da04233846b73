"""An evaluation protocol on a file of reference ensembles, as JSON and as a table.

Every method makes twice as many conformers as there are references, from the graph alone. What a
protocol leaves out is counted; ours leaves out nothing, and a molecule for which a method makes
nothing counts as 0 % covered.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rdkit
from tqdm.auto import tqdm

from rdgeodiff.data.conformer_sets import ReferenceMolecule
from rdgeodiff.evaluation.covmat import CovMatSummary, Spread, summarize
from rdgeodiff.evaluation.generators import Generated, Generator
from rdgeodiff.evaluation.molecule_score import MoleculeScore, score_molecule, spread_out
from rdgeodiff.evaluation.protocols import OWN, SWEEP, Protocol
from rdgeodiff.evaluation.references import read_references
from rdgeodiff.evaluation.tables import markdown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MethodReport:
    """All molecules under one method.

    Attributes:
        method: its name.
        molecules: in the order of the file.
        drop_incomplete: means are over molecules with everything that was asked for.
    """

    method: str
    molecules: list[MoleculeScore]
    drop_incomplete: bool = False

    @property
    def scored(self) -> list[MoleculeScore]:
        """The molecules that count in the means."""
        return [m for m in self.molecules if not (self.drop_incomplete and _incomplete(m))]

    @property
    def covmat(self) -> CovMatSummary:
        """Scores over the molecules that count."""
        return summarize([m.covmat for m in self.scored])

    @property
    def curve(self) -> CovMatSummary | None:
        """Scores at every threshold of the sweep, or None."""
        found = [m.curve for m in self.scored if m.curve is not None]
        return summarize(found) if found else None

    def summary(self) -> dict[str, Any]:
        """Everything a table needs, with nothing uncounted."""
        rows = self.molecules
        delivered = sum(m.delivered for m in rows)
        seconds = sum(m.seconds for m in rows)
        raw = sum(m.raw_samples or 0 for m in rows)
        busted = [m.posebusters for m in rows if m.posebusters is not None]
        notes: dict[str, int] = {}
        for m in rows:
            for cause, count in m.notes.items():
                notes[cause] = notes.get(cause, 0) + count
        return {
            **dataclasses.asdict(self.covmat),
            "requested": sum(m.requested for m in rows),
            "delivered": delivered,
            "delivered_share": _share(delivered, sum(m.requested for m in rows)),
            "raw_samples": raw or None,
            "raw_stereo_share": _share(sum(m.raw_stereo_ok or 0 for m in rows), raw),
            "stereo_share": _share(sum(m.stereo_ok for m in rows), delivered),
            "seconds_per_conformer": seconds / delivered if delivered else None,
            "bond_deviation": Spread.of(
                m.bond_deviation for m in rows if m.bond_deviation is not None
            ).mean,
            "angle_deviation": Spread.of(
                m.angle_deviation for m in rows if m.angle_deviation is not None
            ).mean,
            "posebusters_share": _share(sum(p for p, _ in busted), sum(t for _, t in busted)),
            "rmsd_upper_bounds": sum(not m.rmsd_exact for m in rows),
            "errors": sum(m.error is not None for m in rows),
            "incomplete": sum(_incomplete(m) for m in rows),
            "notes": notes,
        }


@dataclass(frozen=True)
class ArchiveReport:
    """All methods on one archive.

    Attributes:
        archive: name of the file.
        deltas: Å.
        methods: one report each, over the same molecules.
        interrupted: the run was stopped; the molecules finished until then are reported.
        protocol: the rules.
        left_out: reason → molecules that the protocol leaves out for every method.
    """

    archive: str
    deltas: tuple[float, ...]
    methods: list[MethodReport]
    interrupted: bool = False
    protocol: Protocol = OWN
    left_out: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "archive": self.archive,
            "deltas": list(self.deltas),
            "protocol": dataclasses.asdict(self.protocol),
            "left_out": self.left_out,
            "conformers_per_reference": 2,
            "rdkit": rdkit.__version__,
            "interrupted": self.interrupted,
            "methods": {
                m.method: {
                    "summary": m.summary(),
                    "curve": _curve(m.curve),
                    "molecules": [_row(row) for row in m.molecules],
                }
                for m in self.methods
            },
        }

    def to_markdown(self) -> str:
        """A heading, our table, counted remarks and the published rows."""
        return markdown(self)


def evaluate_archive(
    path: str | os.PathLike[str],
    generators: Sequence[Generator],
    *,
    molecules: int = 0,
    deltas: Sequence[float] = (),
    protocol: Protocol = OWN,
    sweep: bool = False,
    posebusters: bool = False,
    workers: int = 1,
    progress: bool = True,
) -> ArchiveReport:
    """Run a protocol.

    Args:
        path: reference ensembles, see `read_references`.
        generators: methods to compare.
        molecules: at most this many, taken at an even stride over the file; 0 for all.
        deltas: Å; by default the protocol's for molecules of this size.
        protocol: the rules.
        sweep: also score at every threshold from 0.05 to 3 Å.
        posebusters: also run PoseBusters on some conformers of each molecule.
        workers: threads that score while the next molecules are made. The scores are the same for
            any number; with more than one, times per conformer come out higher where the methods
            share cores with the scoring.
        progress: show a bar that counts molecules.

    Raises:
        ArchiveError: the file is damaged.
        ImportError: PoseBusters was asked for and is not installed.
    """
    chosen: list[ReferenceMolecule] = []
    left_out: dict[str, int] = {}
    for reference in read_references(path):
        reason = protocol.objection(reference.mol)
        if reason is None:
            chosen.append(reference)
        else:
            left_out[reason] = left_out.get(reason, 0) + 1
    levels = tuple(deltas) or protocol.deltas([r.mol for r in chosen])
    chosen = spread_out(chosen, molecules)

    def scored(reference: ReferenceMolecule, made: Generated) -> MoleculeScore:
        return score_molecule(
            reference, made, levels, posebusters, strict=protocol.strict, sweep=sweep
        )

    rows, interrupted = _scores(chosen, generators, scored, workers, Path(path).stem, progress)
    reports = [
        MethodReport(g.name, [row[k] for row in rows], protocol.drop_incomplete)
        for k, g in enumerate(generators)
    ]
    return ArchiveReport(Path(path).name, levels, reports, interrupted, protocol, left_out)


def _scores(
    chosen: Sequence[ReferenceMolecule],
    generators: Sequence[Generator],
    scored: Callable[[ReferenceMolecule, Generated], MoleculeScore],
    workers: int,
    title: str,
    progress: bool,
) -> tuple[list[list[MoleculeScore]], bool]:
    """One row of scores per molecule, and whether the run was interrupted."""
    counts = [2 * len(r.positions) for r in chosen]
    running = [g([r.mol for r in chosen], counts) for g in generators]
    rows: list[list[Future[MoleculeScore]]] = []
    interrupted = False
    with ThreadPoolExecutor(workers) as pool:
        try:
            # All methods take their turn on each molecule, so that a stopped run still compares
            # them. Alone, the scoring thread must not disturb the times of the methods.
            for reference in tqdm(chosen, desc=title, unit="mol", disable=not progress):
                row = [pool.submit(scored, reference, next(g)) for g in running]
                rows.append(row)
                if workers == 1:
                    _ = [f.result() for f in row]
        except KeyboardInterrupt:
            interrupted = True
            logger.warning("interrupted after %d of %d molecules", len(rows), len(chosen))
        return [[f.result() for f in row] for row in rows], interrupted


def _share(part: int, whole: int) -> float | None:
    return 100.0 * part / whole if whole else None


def _incomplete(molecule: MoleculeScore) -> bool:
    return molecule.delivered < molecule.requested


def _row(molecule: MoleculeScore) -> dict[str, Any]:
    row = dataclasses.asdict(molecule)
    del row["curve"]  # sixty numbers a molecule; the method's curve is what is looked at
    return row


def _curve(summary: CovMatSummary | None) -> dict[str, Any] | None:
    if summary is None:
        return None
    sides = {"cov_r": summary.cov_r, "cov_p": summary.cov_p}
    return {"deltas": list(SWEEP)} | {
        f"{side}_{kind}": [getattr(spread, kind) for spread in spreads]
        for side, spreads in sides.items()
        for kind in ("mean", "median")
    }
