"""Coverage against the threshold: whether a method is better, or only better at one δ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rdgeodiff.evaluation.protocols import SWEEP
from rdgeodiff.evaluation.report import ArchiveReport
from rdgeodiff.evaluation.tables import LABELS


def require_matplotlib() -> None:
    """ImportError with advice where Matplotlib is missing; asked before the work, not after it."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("Matplotlib is not installed: pip install 'rdgeodiff[eval]'") from error


def plot_coverage(reports: Sequence[ArchiveReport], path: str | os.PathLike[str]) -> None:
    """Mean COV-R and COV-P of every method against δ, one row of panels for each archive.

    Args:
        reports: made with `sweep`.
        path: picture; its ending says of which kind.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: no molecules, or no curves in a report.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    if not reports or not all(any(m.curve for m in r.methods) for r in reports):
        raise ValueError("there are no curves to plot")
    figure = Figure(figsize=(9.0, 3.6 * len(reports)), layout="constrained")
    panels = figure.subplots(len(reports), 2, sharex="row", sharey=True, squeeze=False)
    for row, report in zip(panels, reports, strict=True):
        for panel, side, title in zip(
            row, ("cov_r", "cov_p"), ("recall", "precision"), strict=True
        ):
            for method in report.methods:
                curve = method.curve
                if curve is not None:
                    means = [spread.mean for spread in getattr(curve, side)]
                    panel.plot(SWEEP, means, label=LABELS.get(method.method, method.method))
            for delta in report.deltas:
                panel.axvline(delta, color="0.7", linewidth=0.8, linestyle="--", zorder=0)
            panel.set_xlim(0.0, SWEEP[-1])
            panel.set_ylim(0.0, 101.0)
            panel.set_xlabel("δ (Å)")
            panel.set_title(f"COV-{side[-1].upper()}, {title}", fontsize=10)
            panel.grid(alpha=0.25)
        count = max(len(m.molecules) for m in report.methods)
        row[0].set_ylabel(f"% (mean of {count} molecules)\n{report.archive}", fontsize=9)
        row[1].legend(loc="lower right", fontsize=9)
    figure.savefig(Path(path), dpi=150)
