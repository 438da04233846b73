"""A page on one run: what came of every molecule, how its conformers differ, what failed and why.

One file that needs no network and no script; every text from the input is escaped.
"""

from __future__ import annotations

import html
import os
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdCoordGen
from rdkit.Chem.Draw import rdMolDraw2D

from rdgeodiff.chem.formats import Record
from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.parameters import DiffusionEmbedParameters
from rdgeodiff.results import EmbedResult, FailureCause

# A page with more is too heavy for a browser; failures get the same room of their own.
MAX_SHOWN = 500
# Conformers looked at for the spread: pairs grow with the square.
MAX_COMPARED = 20
MAX_MATCHES = 500
MAX_SECONDS = 1.0

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2a33; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0.2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
pre { background: #f4f6f8; padding: 0.8rem 1rem; border-radius: 6px; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid #c9d2d9; padding: 0.3rem 0.6rem; }
td { border-bottom: 1px solid #e3e8ec; padding: 0.3rem 0.6rem; vertical-align: middle; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
td.text { overflow-wrap: anywhere; max-width: 22rem; min-width: 11rem; }
.quiet { color: #667; font-size: 0.85rem; }
.ok { color: #2a7a4b; } .part { color: #a66a00; } .none { color: #b3342d; }
.bar { display: inline-block; height: 0.7rem; background: #b3342d; border-radius: 2px; }
.bar.wanted { background: #a9b4bd; }
svg { display: block; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>rdgeodiff: conformers of {molecules} molecules</title><style>{style}</style></head><body>
<h1>Conformers of {molecules} molecules</h1>
<p class="quiet">{settings}</p>
<pre>{summary}</pre>
{causes}
<h2>Molecules</h2>
<p class="quiet">RMSD: symmetric, heavy atoms of the largest fragment, between pairs of the
molecule's conformers (the first {compared}). {left_out}</p>
<table><thead><tr><th class="n">row</th><th></th><th>molecule</th><th class="n">atoms</th>
<th class="n">conformers</th><th class="n">RMSD mean (min–max) / Å</th><th>outcome</th></tr></thead>
<tbody>
{rows}
</tbody></table></body></html>
"""


class RunReport:
    """Collects the molecules of a run and writes the page.

    Args:
        wanted: conformers asked for of each molecule.
        params: of the run.
    """

    def __init__(self, wanted: int, params: DiffusionEmbedParameters) -> None:
        self._wanted = wanted
        self._params = params
        self._rows: list[str] = []
        self._room = {True: MAX_SHOWN, False: MAX_SHOWN}
        self._molecules = 0
        self._conformers: Counter[str] = Counter()
        self._touched: Counter[str] = Counter()

    def add(self, record: Record, result: EmbedResult | None) -> None:
        """Take one molecule as it is now; `result` is None where it could not be read."""
        self._molecules += 1
        if result is None:
            causes = {str(FailureCause.INVALID_INPUT): self._wanted}
        else:
            causes = {str(cause): n for cause, n in result.failures.items() if n}
        self._conformers.update(causes)
        self._touched.update(dict.fromkeys(causes, 1))
        complete = result is not None and result.ok
        if self._room[complete]:
            self._room[complete] -= 1
            self._rows.append(_row(record, result, causes, self._wanted))

    def write(self, path: str | os.PathLike[str], summary: str) -> None:
        """Write the page; `summary` is shown as it is."""
        left_out = self._molecules - len(self._rows)
        page = _PAGE.format(
            style=_STYLE,
            molecules=self._molecules,
            settings=html.escape(_changed(self._params)),
            summary=html.escape(summary),
            causes=self._causes(),
            compared=MAX_COMPARED,
            left_out=f"{left_out} more molecules are not shown." if left_out else "",
            rows="\n".join(self._rows),
        )
        Path(path).write_text(page, encoding="utf-8")

    def _causes(self) -> str:
        if not self._conformers:
            return ""
        most = max(self._conformers.values())
        lines = [
            f"<tr><td>{html.escape(cause)}</td>"
            f'<td class="n">{self._touched[cause]}</td><td class="n">{count}</td>'
            f'<td><span class="{_bar(cause)}" '
            f'style="width: {max(2, round(240 * count / most))}px"></span>'
            f"</td></tr>"
            for cause, count in self._conformers.most_common()
        ]
        return (
            '<h2>Missing, by cause</h2><table><thead><tr><th>cause</th><th class="n">molecules</th>'
            '<th class="n">conformers</th><th></th></tr></thead><tbody>'
            f"{''.join(lines)}</tbody></table>"
        )


def _bar(cause: str) -> str:
    """Pruned conformers are missing because the user wished it, and look so."""
    return "bar wanted" if cause == FailureCause.PRUNED else "bar"


def rmsd_spread(mol: Chem.Mol) -> tuple[float, float, float] | None:
    """Mean, least and largest pairwise RMSD in Å of the conformers; None for fewer than two.

    Symmetric, over the heavy atoms of the largest fragment and the first `MAX_COMPARED` conformers.
    """
    main = max(Chem.GetMolFrags(mol, asMols=True), key=Chem.Mol.GetNumAtoms)
    positions = np.array([c.GetPositions() for c in main.GetConformers()][:MAX_COMPARED])
    if len(positions) < 2:
        return None
    matrix = rmsd_matrix(
        main, positions, positions, max_matches=MAX_MATCHES, max_seconds=MAX_SECONDS
    ).values
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    return float(pairs.mean()), float(pairs.min()), float(pairs.max())


def structure_svg(mol: Chem.Mol, width: int = 180, height: int = 120) -> str:
    """The 2D structure as an SVG element without hydrogens; "" where it cannot be drawn."""
    try:
        with rdBase.BlockLogs():
            # A bare copy: labels and notes that a file may set on atoms are text of the user's.
            bare = Chem.RemoveHs(Chem.Mol(mol.ToBinary(int(Chem.PropertyPickleOptions.NoProps))))
            rdCoordGen.AddCoords(bare)
            drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
            options: Any = drawer.drawOptions()
            options.clearBackground = False
            options.fixedBondLength = 22  # one atom is not as large as a steroid
            rdMolDraw2D.PrepareAndDrawMolecule(drawer, bare)
            drawer.FinishDrawing()
            text = drawer.GetDrawingText()
    except (RuntimeError, ValueError):
        return ""
    return text[text.index("<svg") :].replace("<!-- END OF HEADER -->", "")


def _row(record: Record, result: EmbedResult | None, causes: dict[str, int], wanted: int) -> str:
    mol = record.mol
    delivered = len(result.conf_ids) if result is not None else 0
    kind = "ok" if result is not None and result.ok else "part" if delivered else "none"
    outcome = {"ok": "complete", "part": "some missing", "none": "none"}[kind]
    spread = rmsd_spread(mol) if mol is not None and delivered > 1 else None
    told = f"{spread[0]:.2f} ({spread[1]:.2f}–{spread[2]:.2f})" if spread else ""
    why = record.error if result is None else result.error
    why = why or ", ".join(f"{cause} {n}" for cause, n in causes.items())
    rejected = sum(result.rejections.values()) if result is not None else 0
    redrawn = f"{rejected} samples rejected and drawn again" if rejected and kind == "ok" else ""
    detail = "<br>".join(html.escape(t) for t in (why, redrawn) if t)
    text = record.text if record.text != record.name else ""
    return (
        f'<tr><td class="n">{record.row}</td>'
        f"<td>{structure_svg(mol) if mol is not None else ''}</td>"
        f'<td class="text">{html.escape(record.name)}'
        f'<br><span class="quiet">{html.escape(text)}</span></td>'
        f'<td class="n">{mol.GetNumAtoms() if mol is not None else ""}</td>'
        f'<td class="n">{delivered} / {wanted}</td><td class="n">{told}</td>'
        f'<td class="text"><span class="{kind}">{outcome}</span>'
        f'<br><span class="quiet">{detail}</span></td></tr>'
    )


def _changed(params: DiffusionEmbedParameters) -> str:
    """What differs from the defaults."""
    plain = DiffusionEmbedParameters()
    told = [
        f"{f.name} {getattr(params, f.name)}"
        for f in fields(params)
        if getattr(params, f.name) != getattr(plain, f.name) and f.name != "progress"
    ]
    return ", ".join(told) or "default parameters"
