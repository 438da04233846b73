"""Coverage and matching: how well an ensemble recalls the references, and how precise it is.

COV-R is the share of references with a generated conformer within δ, MAT-R the mean distance from a
reference to its nearest generated conformer; COV-P and MAT-P are the same with the roles exchanged
(GeoDiff §5.2). Recall alone can be bought with more samples, so both are always reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CovMat:
    """Scores of one molecule.

    Attributes:
        cov_r, cov_p: one value in % for each δ.
        mat_r, mat_p: Å; None where nothing was generated.
    """

    cov_r: tuple[float, ...]
    mat_r: float | None
    cov_p: tuple[float, ...]
    mat_p: float | None


@dataclass(frozen=True)
class Spread:
    """Mean and median over molecules; None where no molecule has a value."""

    mean: float | None
    median: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Mean and median of `values`."""
        array = np.fromiter(values, float)
        if not len(array):
            return cls(None, None)
        return cls(float(array.mean()), float(np.median(array)))


@dataclass(frozen=True)
class CovMatSummary:
    """Scores over molecules.

    Attributes:
        cov_r, cov_p: one `Spread` in % for each δ, over all molecules.
        mat_r, mat_p: `Spread` in Å over molecules with at least one generated conformer.
        molecules: number of molecules.
        without_conformers: molecules for which nothing was generated. They count as 0 % in COV and
            are missing from MAT, where they have no value.
    """

    cov_r: tuple[Spread, ...]
    mat_r: Spread
    cov_p: tuple[Spread, ...]
    mat_p: Spread
    molecules: int
    without_conformers: int


def score(rmsd: np.ndarray, deltas: Sequence[float], *, strict: bool = False) -> CovMat:
    """Scores of one molecule from its RMSD matrix (generated, references) in Å.

    Args:
        rmsd: (G, R).
        deltas: thresholds in Å.
        strict: a distance of exactly δ does not count as covered.

    Raises:
        ValueError: no references.
    """
    if rmsd.ndim != 2 or rmsd.shape[1] == 0:
        raise ValueError(f"an RMSD matrix of shape {rmsd.shape} has no references to score against")
    if rmsd.shape[0] == 0:
        nothing = (0.0,) * len(deltas)
        return CovMat(nothing, None, nothing, None)
    to_reference, to_generated = rmsd.min(0), rmsd.min(1)
    within = np.less if strict else np.less_equal
    return CovMat(
        tuple(100.0 * float(within(to_reference, d).mean()) for d in deltas),
        float(to_reference.mean()),
        tuple(100.0 * float(within(to_generated, d).mean()) for d in deltas),
        float(to_generated.mean()),
    )


def summarize(scores: Sequence[CovMat]) -> CovMatSummary:
    """Mean and median over molecules."""
    count = len(scores[0].cov_r) if scores else 0
    return CovMatSummary(
        tuple(Spread.of(s.cov_r[k] for s in scores) for k in range(count)),
        Spread.of(s.mat_r for s in scores if s.mat_r is not None),
        tuple(Spread.of(s.cov_p[k] for s in scores) for k in range(count)),
        Spread.of(s.mat_p for s in scores if s.mat_p is not None),
        len(scores),
        sum(s.mat_r is None for s in scores),
    )
