"""RDKit Mol → `MolGraph`: the only place where chemistry is turned into network features."""

from __future__ import annotations

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.stereo import StereoTables, cis_trans_pairs, stereo_tables
from rdgeodiff.graph import (
    BOND_CODES,
    CIS,
    CONJUGATED,
    ELEMENTS,
    MAX_TOPOLOGICAL_DISTANCE,
    RING_BOND,
    RING_SIZES,
    TRANS,
    MolGraph,
)

_ELEMENT_CODE = {z: k for k, z in enumerate(ELEMENTS) if z > 0}
_HYBRIDIZATION = {
    Chem.HybridizationType.S: 0,
    Chem.HybridizationType.SP: 1,
    Chem.HybridizationType.SP2: 2,
    Chem.HybridizationType.SP3: 3,
    Chem.HybridizationType.SP3D: 4,
    Chem.HybridizationType.SP3D2: 5,
}
_OTHER_HYBRIDIZATION = 6
_BOND_CODE = {
    Chem.BondType.SINGLE: BOND_CODES["single"],
    Chem.BondType.DOUBLE: BOND_CODES["double"],
    Chem.BondType.TRIPLE: BOND_CODES["triple"],
    Chem.BondType.AROMATIC: BOND_CODES["aromatic"],
}


class UnsupportedAtomError(ValueError):
    """An atom the model has never seen: dummy, query, or an element outside its table."""


def supported_elements() -> tuple[str, ...]:
    """Symbols of the elements the feature table covers, in order of atomic number."""
    table = Chem.GetPeriodicTable()
    return tuple(table.GetElementSymbol(z) for z in ELEMENTS if z > 0)


def featurize(mol: Chem.Mol, tables: StereoTables | None = None) -> MolGraph:
    """Graph and features of a sanitised Mol with explicit hydrogens.

    Args:
        mol: every atom, hydrogens included, becomes a node, in the Mol's own order.
        tables: stereo tables of `mol` if already at hand.

    Raises:
        UnsupportedAtomError: an element outside the table; names symbol and index.
    """
    tables = stereo_tables(mol) if tables is None else tables
    rings = [r for r in mol.GetRingInfo().AtomRings()]
    return MolGraph(
        atomic_numbers=np.array([a.GetAtomicNum() for a in mol.GetAtoms()], np.uint8),
        node_codes=_node_codes(mol, rings, tables),
        pair_codes=_pair_codes(mol, rings, tables),
        centers=tables.centers,
        parities=tables.parities,
    )


def _ring_code(size: int) -> int:
    return RING_SIZES.index(min(size, RING_SIZES[-1]))


def _node_codes(mol: Chem.Mol, rings: list, tables: StereoTables) -> np.ndarray:
    ring_bits = np.zeros(mol.GetNumAtoms(), np.uint8)
    for ring in rings:
        ring_bits[list(ring)] |= 1 << _ring_code(len(ring))
    stereo = set(tables.centers[:, 0].tolist()) | set(tables.double_bonds[:, 1:3].ravel().tolist())
    codes = []
    for atom in mol.GetAtoms():
        index = atom.GetIdx()
        element = _ELEMENT_CODE.get(atom.GetAtomicNum())
        if element is None:
            raise UnsupportedAtomError(
                f"atom {index} ({atom.GetSymbol()}) is outside the model's elements "
                f"({', '.join(supported_elements())})"
            )
        codes.append(
            (
                element,
                min(max(atom.GetFormalCharge(), -2), 2) + 2,
                _hybridization(atom),
                int(atom.GetIsAromatic()),
                min(atom.GetTotalNumHs(includeNeighbors=True), 4),
                min(atom.GetDegree(), 6),
                min(atom.GetNumRadicalElectrons(), 2),
                int(index in stereo),
                ring_bits[index],
            )
        )
    return np.array(codes, np.uint8)


def _hybridization(atom: Chem.Atom) -> int:
    # AddHs leaves that of its hydrogens open, reading an SDF does not; the molecule is the same.
    if atom.GetAtomicNum() == 1:
        return _OTHER_HYBRIDIZATION
    return _HYBRIDIZATION.get(atom.GetHybridization(), _OTHER_HYBRIDIZATION)


def _pair_codes(mol: Chem.Mol, rings: list, tables: StereoTables) -> np.ndarray:
    n = mol.GetNumAtoms()
    kind = np.zeros((n, n), np.uint8)
    for bond in mol.GetBonds():
        code = _BOND_CODE.get(bond.GetBondType(), BOND_CODES["other"])
        code |= CONJUGATED * bond.GetIsConjugated() | RING_BOND * bond.IsInRing()
        _set(kind, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), code)
    cis, trans = cis_trans_pairs(mol, tables)
    for pairs, flag in ((cis, CIS), (trans, TRANS)):
        for i, j in pairs:
            _set(kind, i, j, kind[i, j] | flag)
    # RDKit marks atoms of different fragments with a huge distance; it clips to the last class.
    place = np.minimum(Chem.GetDistanceMatrix(mol), MAX_TOPOLOGICAL_DISTANCE).astype(np.uint8)
    shared = np.zeros((n, n), np.uint8)
    for ring in sorted(rings, key=len, reverse=True):  # the smallest shared ring is written last
        shared[np.ix_(ring, ring)] = _ring_code(len(ring)) + 1
    codes = np.stack([kind, place | shared << 4], -1)
    return codes[np.triu_indices(n, 1)]


def _set(matrix: np.ndarray, i: int, j: int, value: int) -> None:
    matrix[i, j] = matrix[j, i] = value
