"""Can this Mol be embedded at all? Asked before anything is computed or changed."""

from __future__ import annotations

from typing import Any

from rdkit import Chem, rdBase

from rdgeodiff.graph import ELEMENTS

# Topological distances cost O(N³) and the network O(N²); beyond this neither is a good idea.
MAX_ATOMS = 1000


def describe(mol: Any, row: int) -> str:
    """How to name a molecule to its owner: its row and, where it can be written, its SMILES."""
    with rdBase.BlockLogs():
        try:
            return f"molecule {row} ({_short_smiles(mol)})"
        except Exception:  # whatever is wrong with the Mol is being reported already
            return f"molecule {row}"


def _short_smiles(mol: Any) -> str:
    """SMILES without the hydrogens that its owner did not write either, where that goes."""
    try:
        return Chem.MolToSmiles(Chem.RemoveHs(Chem.Mol(mol), sanitize=False))
    except Exception:
        return Chem.MolToSmiles(Chem.Mol(mol))


def fault(mol: Chem.Mol) -> tuple[str, str] | None:
    """(cause, reason) of a Mol that cannot be embedded, or None. `cause` names a FailureCause."""
    if mol.GetNumAtoms() == 0:
        return "NO_ATOMS", "molecule has no atoms"
    for atom in mol.GetAtoms():
        if atom.HasQuery():
            return "QUERY_ATOMS", f"atom {atom.GetIdx()} is a query; a pattern has no conformers"
    for bond in mol.GetBonds():
        if bond.HasQuery():
            return "QUERY_ATOMS", f"bond {bond.GetIdx()} is a query; a pattern has no conformers"
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() not in ELEMENTS[1:] and not _lone_ion(atom):
            known = ", ".join(_symbols())
            what = "a dummy atom" if atom.GetAtomicNum() == 0 else atom.GetSymbol()
            return (
                "UNSUPPORTED_ATOM",
                f"atom {atom.GetIdx()} is {what}; the model knows {known}",
            )
    if _unsanitized(mol):
        return "UNSANITIZED", "not sanitized; call Chem.SanitizeMol(mol) first"
    if mol.GetNumAtoms() > MAX_ATOMS:
        return "TOO_LARGE", f"{mol.GetNumAtoms()} atoms; the limit is {MAX_ATOMS}"
    return None


def _lone_ion(atom: Chem.Atom) -> bool:
    """A counter-ion, say: it needs a place beside the others and no network."""
    return atom.GetAtomicNum() > 0 and atom.GetDegree() == 0 and _hydrogens(atom) == 0


def _hydrogens(atom: Chem.Atom) -> int:
    try:
        return int(atom.GetTotalNumHs())
    except RuntimeError:  # valences of an unsanitised Mol are not known yet
        return 0


def _symbols() -> list[str]:
    table = Chem.GetPeriodicTable()
    return [table.GetElementSymbol(z) for z in ELEMENTS[1:]]


def _unsanitized(mol: Chem.Mol) -> bool:
    if mol.NeedsUpdatePropertyCache():
        return True
    # AddHs leaves the hybridisation of its hydrogens open; sanitising sets that of all others.
    if any(
        a.GetHybridization() == Chem.HybridizationType.UNSPECIFIED and a.GetAtomicNum() > 1
        for a in mol.GetAtoms()
    ):
        return True
    # RDKit offers no way to ask whether rings were found; it complains when they were not.
    with rdBase.BlockLogs():
        try:
            mol.GetRingInfo().NumRings()
        except RuntimeError:
            return True
    return False
