"""Molecules without conformational freedom: single atoms, and diatomics with their measured length.

A model of conformers has never seen them and there is nothing to sample: one bond length is the
whole structure, and spectroscopy has it to a thousandth of an Å.
"""

from __future__ import annotations

import numpy as np
from rdkit import Chem

# r_e in Å of the ground state, by symbols and bond order: Huber and Herzberg, "Constants of
# Diatomic Molecules" (1979), as in the NIST Chemistry WebBook.
_LENGTHS = {
    ("H", "H", 1): 0.7414,
    ("B", "H", 1): 1.2324,
    ("C", "H", 1): 1.1199,
    ("H", "N", 1): 1.0362,
    ("H", "O", 1): 0.9697,
    ("F", "H", 1): 0.9168,
    ("H", "Si", 1): 1.5201,
    ("H", "P", 1): 1.4223,
    ("H", "S", 1): 1.3409,
    ("Cl", "H", 1): 1.2746,
    ("Br", "H", 1): 1.4144,
    ("H", "I", 1): 1.6092,
    ("N", "N", 3): 1.0977,
    ("C", "N", 3): 1.1718,
    ("C", "O", 3): 1.1283,
    ("C", "O", 2): 1.1283,
    ("C", "S", 3): 1.5349,
    ("C", "S", 2): 1.5349,
    ("N", "O", 2): 1.1508,
    ("N", "O", 3): 1.0632,  # the nitrosonium ion
    ("O", "O", 2): 1.2075,
    ("O", "S", 2): 1.4811,
    ("S", "S", 2): 1.8892,
    ("P", "P", 3): 1.8934,
    ("Cl", "O", 1): 1.5696,
    ("F", "F", 1): 1.4119,
    ("Cl", "F", 1): 1.6283,
    ("Br", "F", 1): 1.7590,
    ("F", "I", 1): 1.9098,
    ("Cl", "Cl", 1): 1.9879,
    ("Br", "Cl", 1): 2.1361,
    ("Cl", "I", 1): 2.3209,
    ("Br", "Br", 1): 2.2811,
    ("Br", "I", 1): 2.4690,
    ("I", "I", 1): 2.6663,
}


def trivial_conformer(mol: Chem.Mol) -> np.ndarray | None:
    """The one conformer (N, 3) in Å of a single atom or of a diatomic of the table, else None."""
    if mol.GetNumAtoms() == 1:
        return np.zeros((1, 3))
    if mol.GetNumAtoms() != 2 or mol.GetNumBonds() != 1:
        return None
    bond = mol.GetBondWithIdx(0)
    first, second = sorted(a.GetSymbol() for a in mol.GetAtoms())
    length = _LENGTHS.get((first, second, int(bond.GetBondType())))
    if length is None:
        return None
    return np.array([[-length / 2, 0.0, 0.0], [length / 2, 0.0, 0.0]])
