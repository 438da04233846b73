"""`MolGraph` → RDKit Mol: the way back from `featurize`, for files that hold graphs alone."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.graph import BOND_CODES, CIS, NODE_COLUMNS, TRANS, MolGraph

_BONDS = {
    BOND_CODES["single"]: Chem.BondType.SINGLE,
    BOND_CODES["double"]: Chem.BondType.DOUBLE,
    BOND_CODES["triple"]: Chem.BondType.TRIPLE,
    BOND_CODES["aromatic"]: Chem.BondType.AROMATIC,
}
_COLUMN = {name: k for k, name in enumerate(NODE_COLUMNS)}


class RebuildError(ValueError):
    """A graph that does not say which molecule it is of."""


def mol_of(graph: MolGraph) -> Chem.Mol:
    """The molecule of a graph, atoms in its order; featurised again it gives the same graph.

    Raises:
        RebuildError: bonds that are not single, double, triple or aromatic, charges beyond the
            table, or a graph that was altered.
    """
    mol = Chem.RWMol()
    for z, codes in zip(graph.atomic_numbers.tolist(), graph.node_codes.tolist(), strict=True):
        atom = Chem.Atom(z)
        atom.SetFormalCharge(codes[_COLUMN["charge"]] - 2)
        atom.SetNumRadicalElectrons(codes[_COLUMN["radicals"]])
        atom.SetIsAromatic(bool(codes[_COLUMN["aromatic"]]))
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    pairs = list(combinations(range(graph.n_atoms), 2))
    kinds = graph.pair_codes[:, 0].tolist()
    for (i, j), kind in zip(pairs, kinds, strict=True):
        if kind & 7 == BOND_CODES["none"]:
            continue
        if kind & 7 not in _BONDS:
            raise RebuildError(f"the bond of atoms {i} and {j} is of a kind that is not stored")
        mol.AddBond(i, j, _BONDS[kind & 7])
        mol.GetBondBetweenAtoms(i, j).SetIsAromatic(kind & 7 == BOND_CODES["aromatic"])
    try:
        Chem.SanitizeMol(mol)
    except (ValueError, RuntimeError) as error:
        raise RebuildError(f"no molecule RDKit accepts ({error})") from error
    _set_centers(mol, graph)
    _set_double_bonds(mol, dict(zip(pairs, kinds, strict=True)))
    # What is written as SMILES goes by the directions of the bonds beside a double bond.
    Chem.SetDoubleBondNeighborDirections(mol)
    found = featurize(mol)
    for name in ("node_codes", "pair_codes"):
        if not np.array_equal(getattr(found, name), getattr(graph, name)):
            raise RebuildError(f"its molecule has other {name.replace('_', ' ')}")
    if _handedness(found) != _handedness(graph):
        raise RebuildError("its molecule has other stereo centres")
    return mol.GetMol()


def _handedness(graph: MolGraph) -> dict[int, bool]:
    """Centre → whether it is right-handed, whatever the order of its neighbours."""
    return {
        center: bool(parity > 0) ^ _odd(around)
        for (center, *around), parity in zip(
            graph.centers.tolist(), graph.parities.tolist(), strict=True
        )
    }


def _set_centers(mol: Chem.RWMol, graph: MolGraph) -> None:
    for (center, *wanted), parity in zip(
        graph.centers.tolist(), graph.parities.tolist(), strict=True
    ):
        atom = mol.GetAtomWithIdx(center)
        around = [b.GetOtherAtomIdx(center) for b in atom.GetBonds()]
        # Where it has three neighbours the centre itself stands for the missing one.
        around += [center] * (4 - len(around))
        if sorted(around) != sorted(wanted):
            raise RebuildError(f"the neighbours of centre {center} are not those of its bonds")
        odd = _odd([wanted.index(k) for k in around])
        tags = Chem.ChiralType.CHI_TETRAHEDRAL_CCW, Chem.ChiralType.CHI_TETRAHEDRAL_CW
        atom.SetChiralTag(tags[(parity < 0) ^ odd])


def _set_double_bonds(mol: Chem.RWMol, kinds: dict[tuple[int, int], int]) -> None:
    for bond in mol.GetBonds():
        if bond.GetBondType() != Chem.BondType.DOUBLE:
            continue
        begin, end = bond.GetBeginAtom(), bond.GetEndAtom()
        for first in begin.GetNeighbors():
            for last in end.GetNeighbors():
                i, j = sorted((first.GetIdx(), last.GetIdx()))
                flag = kinds.get((i, j), 0) & (CIS | TRANS)
                if flag and end.GetIdx() != first.GetIdx() and begin.GetIdx() != last.GetIdx():
                    bond.SetStereoAtoms(first.GetIdx(), last.GetIdx())
                    cis = Chem.BondStereo.STEREOCIS
                    bond.SetStereo(cis if flag == CIS else Chem.BondStereo.STEREOTRANS)


def _odd(order: list[int]) -> bool:
    return sum(a > b for a, b in combinations(order, 2)) % 2 == 1
