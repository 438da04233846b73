"""Minima of a molecule: what an optimisation must leave as it was are its bonds and its stereo."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.programs import QuantumError
from rdgeodiff.chem.stereo import stereo_tables
from rdgeodiff.chem.verdict import Judge
from rdgeodiff.chem.xtb import BondGraph, Optimised, XtbProgram
from rdgeodiff.datasets.made import Loss

logger = logging.getLogger(__name__)


class Checks:
    """Whether a geometry is still that of its molecule.

    Args:
        mol: with explicit hydrogens and its stereo specified.
    """

    def __init__(self, mol: Chem.Mol) -> None:
        self._mol, self._bonds = mol, BondGraph(mol)
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

    def minimum(
        self,
        program: XtbProgram,
        start: np.ndarray,
        losses: Counter[str],
        method: str = "gfn2",
        level: str = "normal",
    ) -> Optimised | None:
        """The minimum next to `start` (N, 3) in Å, as of `XtbProgram.optimise`, if it passes.

        None, and the cause counted, where the program fails or the molecule becomes another one.
        """
        try:
            found = program.optimise(self._mol, start, method, level)
        except QuantumError as error:
            logger.info("%s: %s", Chem.MolToSmiles(Chem.RemoveHs(self._mol)), error)
            losses[str(error.cause)] += 1
            return None
        return found if self.passes(found.positions, losses) else None
