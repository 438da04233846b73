"""Scores reported in the literature, for tables beside our own.

They were measured on other molecules (GEOM test sets) and so give scale, not a ranking.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One reported row: mean/median as printed, in % and Å."""

    method: str
    data: str
    delta: float
    cov_r: str
    mat_r: str
    cov_p: str
    mat_p: str
    source: str


_GEODIFF = "GeoDiff, arXiv 2203.02923"
_TORSIONAL = "Torsional Diffusion, arXiv 2206.01729"

PUBLISHED = (
    Published("GeoDiff-C, 5000 steps", "GEOM-QM9", 0.5, "90.07/93.39", "0.209/0.199",
              "52.79/50.29", "0.445/0.427", _GEODIFF),
    Published("ConfGF", "GEOM-QM9", 0.5, "88.49/94.31", "0.267/0.269",
              "46.43/43.41", "0.522/0.512", _GEODIFF),
    Published("GeoDiff, retrained", "GEOM-Drugs", 0.75, "42.1/37.8", "0.835/0.809",
              "24.9/14.5", "1.136/1.090", _TORSIONAL),
    Published("GeoDiff-C, 5000 steps", "GEOM-Drugs", 1.25, "89.13/97.88", "0.863/0.853",
              "61.47/64.55", "1.171/1.123", _GEODIFF),
    Published("RDKit + force field", "GEOM-Drugs", 1.25, "60.91/65.70", "1.203/1.125",
              "72.22/88.72", "1.098/0.954", _GEODIFF),
)  # fmt: skip


def published_table(deltas: tuple[float, ...]) -> str:
    """Markdown table of the reported rows for the given δ in Å; empty where there are none."""
    rows = [p for p in PUBLISHED if p.delta in deltas]
    if not rows:
        return ""
    lines = [
        "| published | data | δ (Å) | COV-R % | MAT-R Å | COV-P % | MAT-P Å | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {p.method} | {p.data} | {p.delta:g} | {p.cov_r} | {p.mat_r} | {p.cov_p} | {p.mat_p} "
        f"| {p.source} |"
        for p in rows
    ]
    return "\n".join(lines)
