"""The report of a run as Markdown."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rdgeodiff.evaluation.covmat import Spread
from rdgeodiff.evaluation.protocols import OWN
from rdgeodiff.evaluation.published import published_table

if TYPE_CHECKING:
    from rdgeodiff.evaluation.report import ArchiveReport, MethodReport

LABELS = {
    "diffusion": "rdgeodiff",
    "diffusion+mmff": "rdgeodiff + MMFF94s",
    "etkdg": "ETKDGv3",
    "etkdg+mmff": "ETKDGv3 + MMFF94s",
}


def markdown(report: ArchiveReport) -> str:
    """A heading, our table, counted remarks and the published rows."""
    rows = report.methods[0].molecules if report.methods else []
    rules = "" if report.protocol == OWN else f", protocol {report.protocol.name}"
    heading = (
        f"### {report.archive}: {len(rows)} molecules, {sum(m.references for m in rows)} "
        f"references, 2 x references generated (mean/median){rules}"
    )
    name = "" if report.protocol == OWN else report.protocol.name
    parts = [heading, _table(report), _remarks(report), published_table(report.deltas, name)]
    return "\n\n".join(p for p in parts if p) + "\n"


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
        cells = [LABELS.get(method.method, method.method)]
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
    for reason, count in report.left_out.items():
        lines.append(f"- Left out by the protocol: {count} molecules with {reason}")
    for method in report.methods:
        summary = method.summary()
        facts = [f"{cause} {count}" for cause, count in sorted(summary["notes"].items())]
        if summary["without_conformers"]:
            facts.append(f"{summary['without_conformers']} molecules with no conformer, not in MAT")
        if summary["rmsd_upper_bounds"]:
            facts.append(f"{summary['rmsd_upper_bounds']} molecules with upper-bound RMSDs")
        if summary["errors"]:
            facts.append(f"{summary['errors']} molecules not attempted")
        if report.protocol.drop_incomplete and summary["incomplete"]:
            facts.append(_with_dropped(method))
        if facts:
            lines.append(f"- {LABELS.get(method.method, method.method)}: {'; '.join(facts)}")
    return "\n".join(lines)


def _with_dropped(method: MethodReport) -> str:
    """What dropping molecules changed: a method must not gain by failing."""
    whole = dataclasses.replace(method, drop_incomplete=False).covmat
    recall, precision = (
        "/".join(_number(spread.mean, 1) for spread in side) for side in (whole.cov_r, whole.cov_p)
    )
    count = len(method.molecules) - len(method.scored)
    return (
        f"{count} molecules with fewer conformers than asked for are not in the means, as the "
        f"protocol has it; with them COV-R is {recall} %, COV-P {precision} %"
    )


def _pair(spread: Spread, digits: int) -> str:
    return f"{_number(spread.mean, digits)}/{_number(spread.median, digits)}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
