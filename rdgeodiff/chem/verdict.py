"""Is a sample an acceptable conformer of its molecule? Finite, right-handed, plausible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.conformers import as_conformer
from rdgeodiff.chem.cumulenes import Allenes
from rdgeodiff.chem.plausibility import Plausibility
from rdgeodiff.chem.stereo import (
    StereoTables,
    wrong_axes,
    wrong_centers,
    wrong_double_bonds,
)
from rdgeodiff.geometry import HeldAtoms

HELD_TOLERANCE = 0.05  # Å a held atom may lie off its place

_HANDS = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
_CIS = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
_TRANS = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)


@dataclass(frozen=True)
class Verdict:
    """What was found of one sample.

    Attributes:
        positions: (N, 3) float64 in Å to be delivered, reflected if need be; None if rejected.
        cause: name of the FailureCause of a rejected sample.
        stereo_ok: all specified stereo was right in the sample as it came.
    """

    positions: np.ndarray | None
    cause: str | None
    stereo_ok: bool


class Judge:
    """Decides on samples of one molecule (or fragment).

    Args:
        mol: sanitised Mol with explicit hydrogens, one fragment.
        tables: its stereo tables.
        enforce_chirality: reject wrong tetrahedral centres and axes; double bonds are checked in
            any case.
        held: atoms that have places; an accepted sample is delivered in the frame of these.
    """

    def __init__(
        self,
        mol: Chem.Mol,
        tables: StereoTables,
        enforce_chirality: bool = True,
        held: HeldAtoms | None = None,
    ) -> None:
        self._mol = Chem.Mol(mol)
        self._mol.RemoveAllConformers()
        self._tables = tables
        self._enforce = enforce_chirality
        self._held = held
        self._allenes = Allenes(mol)
        self._plausibility = Plausibility(mol)
        self._trans = {
            frozenset((int(begin), int(end))): (int(first), int(last), bool(is_trans))
            for (first, begin, end, last), is_trans in zip(
                tables.double_bonds, tables.trans, strict=True
            )
        }

    def judge(self, positions: np.ndarray) -> Verdict:
        """Verdict on (N, 3) positions in Å.

        A sample with every specified centre and axis wrong is the mirror image of what was asked
        for; a reflection mends it without touching a distance.

        Raises:
            ValueError: positions of another number of atoms.
        """
        if positions.shape != (self._mol.GetNumAtoms(), 3):
            n = self._mol.GetNumAtoms()
            raise ValueError(f"positions of shape {positions.shape} for {n} atoms")
        if not np.isfinite(positions).all():
            return Verdict(None, "NONFINITE", False)
        positions = self._allenes.mend(positions)
        centers = wrong_centers(positions, self._tables)
        bonds = wrong_double_bonds(positions, self._tables)
        axes = wrong_axes(positions, self._tables)
        hands = np.concatenate([centers, axes])
        stereo_ok = not hands.any() and not bonds.any()
        if self._enforce and hands.any():
            if not hands.all():
                return Verdict(None, "STEREO", False)
            positions = positions * np.array([1.0, 1.0, -1.0])
            if wrong_axes(positions, self._tables).any():  # flat, not twisted the other way
                return Verdict(None, "STEREO", False)
        if bonds.any():
            return Verdict(None, "DOUBLE_BOND_STEREO", False)
        if self._allenes.any_flat(positions):
            return Verdict(None, "FLATNESS", stereo_ok)
        fault = self._plausibility.cause(positions) or self._perceived_fault(positions)
        if fault is not None:
            return Verdict(None, str(fault), stereo_ok)
        if self._held is not None:
            positions, gap = self._held.place(positions)
            if gap > HELD_TOLERANCE:
                return Verdict(None, "COORD_MAP", stereo_ok)
        return Verdict(positions, None, stereo_ok)

    def _perceived_fault(self, positions: np.ndarray) -> str | None:
        """What RDKit, reading the stereo back from the positions, finds wrong.

        Chiral tags refer to the order of bonds, which a copy shares, so tags are compared and not
        CIP labels: labels of centres that depend on each other can differ in a right structure. A
        tag RDKit does not set means that it does not look at such an atom, or that it is flat.
        """
        if not len(self._tables.parities) and not len(self._tables.trans):
            return None
        copy = Chem.Mol(self._mol)
        copy.AddConformer(as_conformer(positions), assignId=True)
        if self._enforce and len(self._tables.parities):
            Chem.AssignAtomChiralTagsFromStructure(copy, replaceExistingTags=True)
            for index in self._tables.centers[:, 0].tolist():
                seen = copy.GetAtomWithIdx(index).GetChiralTag()
                wanted = self._mol.GetAtomWithIdx(index)
                if seen not in _HANDS and wanted.GetAtomicNum() != 6:
                    continue
                if seen != wanted.GetChiralTag():
                    return "STEREO"
        if self._trans:
            Chem.AssignStereochemistryFrom3D(copy, replaceExistingTags=True)
            if any(self._is_misread(bond) for bond in copy.GetBonds()):
                return "DOUBLE_BOND_STEREO"
        return None

    def _is_misread(self, bond: Chem.Bond) -> bool:
        begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        wanted = self._trans.get(frozenset((begin, end)))
        if wanted is None or bond.GetStereo() not in _CIS + _TRANS:
            return False
        first, last, is_trans = wanted
        # RDKit may have named the other substituent of an end; each such swap flips cis and trans.
        swaps = sum(atom not in (first, last) for atom in bond.GetStereoAtoms())
        return (bond.GetStereo() in _TRANS) ^ (swaps % 2 == 1) != is_trans
