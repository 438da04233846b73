"""The evaluation protocol on an archive of reference ensembles, as JSON and as a table.

Every method makes twice as many conformers as there are references, from the graph alone. No
molecule is left out: one for which a method makes nothing counts as 0 % covered.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rdkit
from tqdm.auto import tqdm

from rdgeodiff.data.conformer_sets import ReferenceMolecule, read_archive
from rdgeodiff.evaluation.covmat import CovMat, CovMatSummary, Spread, score, summarize
from rdgeodiff.evaluation.generators import Generated, Generator
from rdgeodiff.evaluation.published import published_table
from rdgeodiff.evaluation.rmsd import rmsd_matrix
from rdgeodiff.evaluation.validity import geometry_deviation, posebusters_passes, right_stereo

logger = logging.getLogger(__name__)

DRUG_ATOMS = 30  # a set whose largest molecule has this many atoms counts as drug-size
QM9_DELTAS, DRUG_DELTAS = (0.5,), (0.75, 1.25)  # Å
POSEBUSTERS_SAMPLES = 10  # conformers checked a molecule; one takes about 0.1 s
_LABELS = {"diffusion": "rdgeodiff", "etkdg": "ETKDGv3", "etkdg+mmff": "ETKDGv3 + MMFF94s"}


@dataclass(frozen=True)
class MoleculeScore:
    """One molecule under one method; see `Generated` and `CovMat` for the parts."""

    smiles: str
    references: int
    requested: int
    delivered: int
    seconds: float
    covmat: CovMat
    raw_samples: int | None
    raw_stereo_ok: int | None
    stereo_ok: int
    bond_deviation: float | None
    angle_deviation: float | None
    rmsd_exact: bool
    posebusters: tuple[int, int] | None
    notes: dict[str, int]
    error: str | None


@dataclass(frozen=True)
class MethodReport:
    """All molecules under one method."""

    method: str
    molecules: list[MoleculeScore]

    @property
    def covmat(self) -> CovMatSummary:
        """Scores over molecules."""
        return summarize([m.covmat for m in self.molecules])

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
    """

    archive: str
    deltas: tuple[float, ...]
    methods: list[MethodReport]
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "archive": self.archive,
            "deltas": list(self.deltas),
            "conformers_per_reference": 2,
            "rdkit": rdkit.__version__,
            "interrupted": self.interrupted,
            "methods": {
                m.method: {
                    "summary": m.summary(),
                    "molecules": [dataclasses.asdict(row) for row in m.molecules],
                }
                for m in self.methods
            },
        }

    def to_markdown(self) -> str:
        """A heading, our table, counted remarks and the published rows."""
        count = len(self.methods[0].molecules) if self.methods else 0
        references = sum(m.references for m in self.methods[0].molecules) if self.methods else 0
        parts = [
            f"### {self.archive}: {count} molecules, {references} references, 2 x references "
            "generated (mean/median)",
            _table(self),
            _remarks(self),
            published_table(self.deltas),
        ]
        return "\n\n".join(p for p in parts if p) + "\n"


def evaluate_archive(
    path: str | os.PathLike[str],
    generators: Sequence[Generator],
    *,
    molecules: int = 0,
    deltas: Sequence[float] = (),
    posebusters: bool = False,
    progress: bool = True,
) -> ArchiveReport:
    """Run the protocol.

    Args:
        path: archive (.npz) of reference ensembles.
        generators: methods to compare.
        molecules: at most this many, taken at an even stride over the archive; 0 for all.
        deltas: Å; by default 0.5 where every molecule has fewer than 30 atoms, else 0.75 and 1.25.
        posebusters: also run PoseBusters on some conformers of each molecule.
        progress: show a bar that counts molecules.

    Raises:
        ArchiveError: the archive is damaged.
        ImportError: PoseBusters was asked for and is not installed.
    """
    references = list(read_archive(path))
    largest = max((r.mol.GetNumAtoms() for r in references), default=0)
    chosen = spread_out(references, molecules)
    levels = tuple(deltas) or (QM9_DELTAS if largest < DRUG_ATOMS else DRUG_DELTAS)
    counts = [2 * len(r.positions) for r in chosen]
    running = [g([r.mol for r in chosen], counts) for g in generators]
    rows: list[list[MoleculeScore]] = []
    interrupted = False
    try:
        # All methods take their turn on each molecule, so that a stopped run still compares them.
        for reference in tqdm(chosen, desc=Path(path).stem, unit="mol", disable=not progress):
            rows.append([score_molecule(reference, next(g), levels, posebusters) for g in running])
    except KeyboardInterrupt:
        interrupted = True
        logger.warning("interrupted after %d of %d molecules", len(rows), len(chosen))
    reports = [MethodReport(g.name, [row[k] for row in rows]) for k, g in enumerate(generators)]
    return ArchiveReport(Path(path).name, levels, reports, interrupted)


def score_molecule(
    reference: ReferenceMolecule,
    made: Generated,
    deltas: Sequence[float],
    posebusters: bool = False,
) -> MoleculeScore:
    """Compare what was `made` with a molecule's references."""
    mol, positions = reference.mol, made.positions
    rmsd = rmsd_matrix(mol, positions, reference.positions)
    deviation = geometry_deviation(mol, positions, reference.positions)
    busted = None
    if posebusters:
        sample = positions[_stride(len(positions), POSEBUSTERS_SAMPLES)]
        busted = (posebusters_passes(mol, sample), len(sample))
    return MoleculeScore(
        smiles=reference.smiles,
        references=len(reference.positions),
        requested=made.requested,
        delivered=len(positions),
        seconds=made.seconds,
        covmat=score(rmsd.values, deltas),
        raw_samples=made.raw_samples,
        raw_stereo_ok=made.raw_stereo_ok,
        stereo_ok=int(right_stereo(mol, positions).sum()),
        bond_deviation=deviation.bonds,
        angle_deviation=deviation.angles,
        rmsd_exact=rmsd.exact,
        posebusters=busted,
        notes=made.notes,
        error=made.error,
    )


def spread_out(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of `items` at an even stride (all of them for 0 or more than there are)."""
    return [items[k] for k in _stride(len(items), count)]


def _stride(total: int, count: int) -> np.ndarray:
    if count <= 0 or count >= total:
        return np.arange(total)
    return np.arange(count) * total // count


def _share(part: int, whole: int) -> float | None:
    return 100.0 * part / whole if whole else None


def _table(report: ArchiveReport) -> str:
    cov = [f"COV-{side} % ({d:g} Å)" for side in "RP" for d in report.deltas]
    half = len(report.deltas)
    head = ["method", *cov[:half], "MAT-R Å", *cov[half:], "MAT-P Å"]
    head += ["raw stereo %", "delivered %", "right stereo %", "bonds Å", "angles °", "s/conformer"]
    busted = any(m.posebusters is not None for r in report.methods for m in r.molecules)
    if busted:
        head.append("PoseBusters %")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method in report.methods:
        summary, scores = method.summary(), method.covmat
        cells = [_LABELS.get(method.method, method.method)]
        cells += [_pair(s, 1) for s in scores.cov_r] or ["–"] * half
        cells.append(_pair(scores.mat_r, 3))
        cells += [_pair(s, 1) for s in scores.cov_p] or ["–"] * half
        cells.append(_pair(scores.mat_p, 3))
        cells += [
            _number(summary["raw_stereo_share"], 1),
            _number(summary["delivered_share"], 1),
            _number(summary["stereo_share"], 1),
            _number(summary["bond_deviation"], 4),
            _number(summary["angle_deviation"], 2),
            _number(summary["seconds_per_conformer"], 4),
        ]
        if busted:
            cells.append(_number(summary["posebusters_share"], 1))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _remarks(report: ArchiveReport) -> str:
    lines = ["Interrupted: not all molecules are in."] if report.interrupted else []
    for method in report.methods:
        summary = method.summary()
        facts = [f"{cause} {count}" for cause, count in sorted(summary["notes"].items())]
        if summary["without_conformers"]:
            facts.append(f"{summary['without_conformers']} molecules with no conformer, not in MAT")
        if summary["rmsd_upper_bounds"]:
            facts.append(f"{summary['rmsd_upper_bounds']} molecules with upper-bound RMSDs")
        if summary["errors"]:
            facts.append(f"{summary['errors']} molecules not attempted")
        if facts:
            lines.append(f"- {_LABELS.get(method.method, method.method)}: {'; '.join(facts)}")
    return "\n".join(lines)


def _pair(spread: Spread, digits: int) -> str:
    return f"{_number(spread.mean, digits)}/{_number(spread.median, digits)}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
