"""Disconnected molecules: each fragment is embedded alone, then they are set side by side.

The positions of fragments relative to each other have no meaning; a network that saw them together
would invent one. RDKit leaves them on top of each other, ours do not touch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

GAP = 3.0  # Å of empty space between neighbouring fragments


@dataclass(frozen=True)
class Fragment:
    """A connected part of a molecule.

    Attributes:
        mol: the part as a Mol of its own.
        atoms: (N,) indices of its atoms in the whole molecule.
    """

    mol: Chem.Mol
    atoms: np.ndarray


def split(mol: Chem.Mol) -> list[Fragment]:
    """Fragments of a sanitised Mol, in order of their lowest atom; tags and labels are kept."""
    mapping: list[tuple[int, ...]] = []
    parts = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False, fragsMolAtomMapping=mapping)
    if len(parts) == 1:
        return [Fragment(mol, np.arange(mol.GetNumAtoms()))]
    for part in parts:
        # Everything else survives the split; rings have to be found anew.
        Chem.GetSymmSSSR(part)
    return [Fragment(p, np.array(a)) for p, a in zip(parts, mapping, strict=True)]


def assemble(fragments: Sequence[Fragment], parts: Sequence[np.ndarray]) -> np.ndarray:
    """Positions (N, 3) of the whole molecule from those of its fragments, all in Å.

    The largest fragment stays where it is. The others follow along x, largest first, each with
    `GAP` between its atoms and everything before it.
    """
    if len(fragments) == 1:
        return parts[0]
    total = sum(len(f.atoms) for f in fragments)
    whole = np.zeros((total, 3))
    edge: float | None = None
    for k in sorted(range(len(fragments)), key=lambda k: -len(fragments[k].atoms)):
        placed = np.array(parts[k], dtype=np.float64)
        if edge is not None:
            placed = placed - placed.mean(0)
            placed[:, 0] += edge + GAP - placed[:, 0].min()
        edge = float(placed[:, 0].max())
        whole[fragments[k].atoms] = placed
    return whole
