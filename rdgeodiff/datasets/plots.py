"""Pictures of what data sets are made of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rdgeodiff.datasets.spread import NUMBERS, SetFacts
from rdgeodiff.evaluation.plots import require_matplotlib

_BINS = 24


def plot_spreads(sets: Sequence[SetFacts], path: str | os.PathLike[str]) -> None:
    """One panel for each number a molecule has, in each the share of molecules of every set.

    Args:
        sets: at least one that is not empty.
        path: picture; its ending says of which kind.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: no molecules.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    sets = [facts for facts in sets if facts.keys]
    if not sets:
        raise ValueError("there are no molecules to plot")
    figure = Figure(figsize=(12.0, 5.6), layout="constrained")
    panels = figure.subplots(2, len(NUMBERS) // 2).ravel()
    for panel, (name, title) in zip(panels, NUMBERS.items(), strict=True):
        values = [np.asarray(getattr(facts, name), float) for facts in sets]
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.25)
        known = np.concatenate(values)
        if not len(known):
            panel.text(0.5, 0.5, "not known", ha="center", transform=panel.transAxes)
            continue
        edges = _edges(known, whole=name != "energy_spread")
        for k, (facts, own) in enumerate(zip(sets, values, strict=True)):
            if len(own):
                shares = 100.0 * np.histogram(own, edges)[0] / len(own)
                look = {"color": f"C{k}", "fill": True, "alpha": 0.35}
                panel.stairs(shares, edges, label=facts.name, **look)
    panels[0].legend(fontsize=8)
    panels[0].set_ylabel("% of molecules")
    panels[len(NUMBERS) // 2].set_ylabel("% of molecules")
    figure.savefig(Path(path), dpi=150)


def _edges(values: np.ndarray, whole: bool) -> np.ndarray:
    """Edges of bins; those of whole numbers hold the same number of them each."""
    low, high = float(values.min()), float(np.quantile(values, 0.995))
    if not whole:
        return np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    step = max(1, int(np.ceil((high - low + 1) / _BINS)))
    return np.arange(low - 0.5, high + step + 0.5, step)
