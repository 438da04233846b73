"""What became of the seeds of one molecule: conformers, or a cause for each that is none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np


class Loss(StrEnum):
    """Why a seed is no conformer in the end, besides the causes of a verdict and of xtb."""

    BONDS_CHANGED = "BONDS_CHANGED"
    SAME_CONFORMER = "SAME_CONFORMER"
    ABOVE_WINDOW = "ABOVE_WINDOW"
    NOT_NEEDED = "NOT_NEEDED"
    TOO_WIDE = "TOO_WIDE"
    NO_SEEDS = "NO_SEEDS"
    NO_FORCE_FIELD = "NO_FORCE_FIELD"


@dataclass
class Made:
    """What became of one molecule.

    Attributes:
        smiles: with all stereo chosen; the last one tried, where no seeds could be drawn.
        positions: arrays (N, 3) in Å by rising energy, atoms in the order of `smiles`.
        energies: (C,) total energies in kcal/mol.
        drawn: seeds asked for, snapshots of metadynamics included.
        losses: cause → seeds that are no conformers; with those kept they are `drawn`.
        unrelaxed: MMFF94s has no parameters, and the seeds went on as they were.
    """

    smiles: str = ""
    positions: list[np.ndarray] = field(default_factory=list)
    energies: np.ndarray = field(default_factory=lambda: np.zeros(0))
    drawn: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    unrelaxed: bool = False

    @property
    def cause(self) -> str | None:
        """Why there are none: the commonest cause; None where there are some."""
        if self.positions:
            return None
        # A seed that equals another one, or lies above it, is not what emptied the molecule.
        late = (Loss.SAME_CONFORMER, Loss.ABOVE_WINDOW, Loss.NOT_NEEDED)
        early = Counter({cause: n for cause, n in self.losses.items() if cause not in late})
        return early.most_common(1)[0][0] if early else str(Loss.NO_SEEDS)
