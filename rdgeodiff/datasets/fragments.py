"""Small molecules that turn about the same bonds as large ones.

What a rotatable bond prefers is mostly a matter of its surroundings, and a fragment of a dozen
heavy atoms takes a tenth of the time of its molecule at a level of theory that gets it right. A
fragment is what lies within two bonds of the rotatable one, with whole rings and double bonds.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from rdkit import Chem, rdBase

LARGEST = 17  # heavy atoms of a fragment
RARE = 3  # bonds of one kind there must be
COMMON = 60  # bonds of one kind from which on it is worth two fragments
_KEPT = 40  # bonds of one kind whose fragments are looked at
_LARGEST_RING = 8
_ROTATABLE = Chem.MolFromSmarts("[!$([D1]);!#1]-&!@[!$([D1]);!#1]")
# Hydrogen would make another functional group of these.
_CAPPED_BY_CARBON = {5, 14, 15, 16}


def torsion_fragment(mol: Chem.Mol, begin: int, end: int, largest: int = LARGEST) -> str | None:
    """SMILES of the surroundings of a bond, without stereo, or None where they are too large.

    What is cut off is replaced by hydrogen, on B, Si, P and S by carbon. Rings of more than eight
    atoms, double and triple bonds and neighbouring charges are never cut. Where everything within
    two bonds is too large, what lies within one is taken.

    Args:
        mol: without explicit hydrogens.
        begin, end: indices of two bonded atoms.
        largest: heavy atoms, caps not counted.
    """
    distance = Chem.GetDistanceMatrix(mol)[[begin, end]].min(0)
    for reach in (2, 1):
        kept = _closed(mol, {int(k) for k in np.flatnonzero(distance <= reach)}, largest)
        if kept is not None:
            return _cut_out(mol, kept)
    return None


def choose_fragments(
    mols: Iterable[Chem.Mol],
    *,
    largest: int = LARGEST,
    smallest: int = 7,
    excluded: Iterable[str] = (),
    seed: int = 0,
) -> list[str]:
    """SMILES of fragments in which every kind of rotatable bond is found that is not rare.

    A kind is the bond with its ends' neighbours. One fragment stands for each that `mols` have
    three times, two for those they have sixty times. In random order, so that a part is a fair
    part.

    Args:
        mols: molecules without explicit hydrogens.
        largest, smallest: heavy atoms of a fragment.
        excluded: SMILES without stereo of molecules to leave out.
        seed: of all choices.
    """
    counts, found = Counter[str](), dict[str, set[str]]()
    left_out = set(excluded)
    for mol in mols:
        for kind, begin, end in rotatable_bonds(mol):
            counts[kind] += 1
            if counts[kind] > _KEPT:
                continue
            fragment = torsion_fragment(mol, begin, end, largest)
            if fragment is None or fragment in left_out:
                continue
            if Chem.MolFromSmiles(fragment).GetNumHeavyAtoms() >= smallest:
                found.setdefault(kind, set()).add(fragment)
    generator = random.Random(seed)
    chosen: list[str] = []
    for least in (RARE, COMMON):
        kinds = sorted(kind for kind in found if counts[kind] >= least)
        generator.shuffle(kinds)
        for kind in kinds:
            if others := sorted(found[kind].difference(chosen)):
                chosen.append(generator.choice(others))
    generator.shuffle(chosen)
    return chosen


def rotatable_bonds(mol: Chem.Mol) -> Iterator[tuple[str, int, int]]:
    """(kind, begin, end) of the single bonds outside rings between atoms with other neighbours."""
    distance = Chem.GetDistanceMatrix(mol)
    for begin, end in mol.GetSubstructMatches(_ROTATABLE):
        near = np.flatnonzero(distance[[begin, end]].min(0) <= 1).tolist()
        yield Chem.MolFragmentToSmiles(mol, near, isomericSmiles=False), begin, end


def _closed(mol: Chem.Mol, kept: set[int], largest: int) -> set[int] | None:
    """`kept` with everything that must not be cut from it; None where that is too large."""
    rings = [set(ring) for ring in mol.GetRingInfo().AtomRings()]
    while len(kept) <= largest:
        more = set[int]()
        for ring in rings:
            if len(ring) <= _LARGEST_RING and ring & kept:
                more |= ring
        for bond in mol.GetBonds():
            ends = {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
            if len(ends & kept) != 1:
                continue
            charged = any(mol.GetAtomWithIdx(k).GetFormalCharge() for k in ends)
            if charged or bond.GetBondTypeAsDouble() != 1.0:
                more |= ends
        if more <= kept:
            return kept
        kept = kept | more
    return None


def _cut_out(mol: Chem.Mol, kept: set[int]) -> str | None:
    editable = Chem.RWMol(mol)
    for bond in mol.GetBonds():
        begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if (begin in kept) == (end in kept):
            continue
        if bond.IsInRing():
            return None
        stays = mol.GetAtomWithIdx(begin if begin in kept else end)
        number = 6 if stays.GetAtomicNum() in _CAPPED_BY_CARBON else 1
        editable.AddBond(stays.GetIdx(), editable.AddAtom(Chem.Atom(number)), Chem.BondType.SINGLE)
    for index in sorted(set(range(mol.GetNumAtoms())) - kept, reverse=True):
        editable.RemoveAtom(index)
    with rdBase.BlockLogs():
        try:
            fragment = editable.GetMol()
            Chem.SanitizeMol(fragment)
            Chem.RemoveStereochemistry(fragment)
            smiles = Chem.MolToSmiles(Chem.RemoveHs(fragment))
        except ValueError:
            return None
        return smiles if Chem.MolFromSmiles(smiles) is not None else None
