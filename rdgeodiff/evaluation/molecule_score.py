"""What one method made of one molecule, held against its references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.data.conformer_sets import ReferenceMolecule
from rdgeodiff.evaluation.covmat import CovMat, score
from rdgeodiff.evaluation.generators import Generated
from rdgeodiff.evaluation.protocols import SWEEP
from rdgeodiff.evaluation.validity import geometry_deviation, posebusters_passes, right_stereo

POSEBUSTERS_SAMPLES = 10  # conformers checked a molecule; one takes about 0.1 s


@dataclass(frozen=True)
class MoleculeScore:
    """One molecule under one method; see `Generated` and `CovMat` for the parts.

    `curve` holds the scores at every threshold of the sweep, where they were asked for.
    """

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
    curve: CovMat | None = None


def score_molecule(
    reference: ReferenceMolecule,
    made: Generated,
    deltas: Sequence[float],
    posebusters: bool = False,
    *,
    strict: bool = False,
    sweep: bool = False,
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
        covmat=score(rmsd.values, deltas, strict=strict),
        raw_samples=made.raw_samples,
        raw_stereo_ok=made.raw_stereo_ok,
        stereo_ok=int(right_stereo(mol, positions).sum()),
        bond_deviation=deviation.bonds,
        angle_deviation=deviation.angles,
        rmsd_exact=rmsd.exact,
        posebusters=busted,
        notes=made.notes,
        error=made.error,
        curve=score(rmsd.values, SWEEP, strict=strict) if sweep else None,
    )


def spread_out(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of `items` at an even stride (all of them for 0 or more than there are)."""
    return [items[k] for k in _stride(len(items), count)]


def _stride(total: int, count: int) -> np.ndarray:
    if count <= 0 or count >= total:
        return np.arange(total)
    return np.arange(count) * total // count
