"""What an optimisation must leave as it was: bonds and stereo of the molecule."""

from __future__ import annotations

from collections import Counter

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.stereo import stereo_tables
from rdgeodiff.chem.verdict import Judge
from rdgeodiff.chem.xtb import BondGraph
from rdgeodiff.datasets.made import Loss


class Checks:
    """Whether a geometry is still that of its molecule.

    Args:
        mol: with explicit hydrogens and its stereo specified.
    """

    def __init__(self, mol: Chem.Mol) -> None:
        self._bonds = BondGraph(mol)
        self._judge = Judge(mol, stereo_tables(mol))

    def passes(self, positions: np.ndarray, losses: Counter[str]) -> bool:
        """True if bonds and stereo are the molecule's own; else the cause is counted."""
        if not self._bonds.holds(positions):
            losses[Loss.BONDS_CHANGED] += 1
            return False
        verdict = self._judge.judge(positions)
        if verdict.positions is None or not verdict.stereo_ok:
            losses[verdict.cause or "STEREO"] += 1
            return False
        return True
