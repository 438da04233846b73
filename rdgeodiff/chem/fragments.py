"""Disconnected molecules: each fragment is embedded alone, then they are set side by side.

The positions of fragments relative to each other have no meaning; a network that saw them together
would invent one. RDKit leaves them on top of each other, ours do not touch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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


def split(mol: Chem.Mol, *, separately: bool = True) -> list[Fragment]:
    """Fragments of a sanitised Mol, in order of their lowest atom; tags and labels are kept.

    Not `separately`: the whole molecule as one, connected or not.
    """
    if not separately:
        return [Fragment(mol, np.arange(mol.GetNumAtoms()))]
    mapping: list[tuple[int, ...]] = []
    parts = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False, fragsMolAtomMapping=mapping)
    if len(parts) == 1:
        return [Fragment(mol, np.arange(mol.GetNumAtoms()))]
    for part in parts:
        # Everything else survives the split; rings have to be found anew.
        Chem.GetSymmSSSR(part)
    return [Fragment(p, np.array(a)) for p, a in zip(parts, mapping, strict=True)]


def assemble(
    fragments: Sequence[Fragment], parts: Sequence[np.ndarray], placed: Collection[int] = ()
) -> np.ndarray:
    """Positions (N, 3) of the whole molecule from those of its fragments, all in Å.

    Fragments in `placed` stay where they are; where there is none, the largest one does. The others
    follow along x, largest first, each with `GAP` between its atoms and everything before it.
    """
    if len(fragments) == 1:
        return parts[0]
    order = sorted(range(len(fragments)), key=lambda k: -len(fragments[k].atoms))
    staying = set(placed) or {order[0]}
    whole = np.zeros((sum(len(f.atoms) for f in fragments), 3))
    edge = -np.inf
    for k in sorted(order, key=lambda k: k not in staying):
        part = np.array(parts[k], dtype=np.float64)
        if k not in staying:
            part = part - part.mean(0)
            part[:, 0] += edge + GAP - part[:, 0].min()
        edge = max(edge, float(part[:, 0].max()))
        whole[fragments[k].atoms] = part
    return whole
