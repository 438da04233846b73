"""The validation losses of the training campaign against the samples seen, as a picture.

Reads the first table of TRAINING.md: python benchmarks/training_curve.py
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, NullLocator

HERE = Path(__file__).parent
SETS = ("val_qm9", "val_drugs", "DFT set")
LEVELS = ("0.3 Å", "1 Å", "3 Å")
# A guided denoiser is not the mean of what lies under the noise: its losses say nothing here.
NO_MEAN = "taught by guided"


def rows() -> list[tuple[str, float, list[list[float]]]]:
    """(what it was, millions of samples, losses by set and level) of each line of the table."""
    text = (HERE / "TRAINING.md").read_text(encoding="utf-8")
    section = text.split("## Validation loss by noise level")[1].split("\n## ")[0]
    found: list[tuple[str, float, list[list[float]]]] = []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 6 or not cells[3].startswith(".") or cells[0].startswith(NO_MEAN):
            continue
        seen = sum(int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\d", cells[2])) / 1e6
        # "the same": of the line above.
        samples = seen or found[-1][1]
        losses = [[float(x) for x in cell.split(" / ")] for cell in cells[3:]]
        found.append((cells[0], samples, losses))
    return found


def main() -> None:
    table = rows()
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True)
    for k, (panel, name) in enumerate(zip(panels, SETS, strict=True)):
        for level, (label, colour) in enumerate(zip(LEVELS, ("C0", "C1", "C2"), strict=True)):
            small = [(s, x[k][level]) for what, s, x in table if "`base`" not in what]
            large = [(s, x[k][level]) for what, s, x in table if "`base`" in what]
            panel.plot(*zip(*sorted(small), strict=True), "o-", ms=3, color=colour, label=label)
            panel.plot(*zip(*large, strict=True), "s--", ms=5, color=colour, mfc="none")
        panel.set(title=name, xlabel="samples seen, millions", xscale="log", yscale="log")
        for axis, ticks in (
            (panel.xaxis, (0.2, 0.5, 1, 2, 5)),
            (panel.yaxis, (0.02, 0.05, 0.1, 0.2)),
        ):
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("validation loss")
    panels[2].legend(title="noise (squares: base)", loc="lower left")
    figure.tight_layout()
    figure.savefig(HERE / "results" / "training.png", dpi=110)


if __name__ == "__main__":
    main()
