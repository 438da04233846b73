"""From GEOM's conformers to one graph with positions: what does not fit is dropped and counted.

The graph is that of GEOM's SMILES; its stereochemistry is what the conformers show, because many
SMILES of GEOM leave it open. Of conformers that disagree, the one with the largest Boltzmann weight
decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from rdkit import Chem, rdBase

from rdgeodiff.chem.featurize import UnsupportedAtomError, featurize
from rdgeodiff.chem.stereo import stereo_tables, wrong_centers, wrong_double_bonds
from rdgeodiff.chem.validate import fault
from rdgeodiff.data.conformer_sets import ReferenceMolecule
from rdgeodiff.data.geom import RawConformer, RawMolecule
from rdgeodiff.graph import MolGraph

MAX_RADIUS = 32.0  # Å from the centroid that the files can store
MIN_DISTANCE = 0.5  # Å; atoms closer than this are no structure


class SkipCause(StrEnum):
    """Why a molecule or one of its conformers is not taken. Members equal their names as text."""

    # The molecule.
    MISSING_FILE = "MISSING_FILE"
    REFUSED_PICKLE = "REFUSED_PICKLE"
    DAMAGED = "DAMAGED"
    NO_CONFORMERS = "NO_CONFORMERS"
    INVALID_SMILES = "INVALID_SMILES"
    UNSUPPORTED_ATOM = "UNSUPPORTED_ATOM"
    TOO_LARGE = "TOO_LARGE"
    TOO_FEW_CONFORMERS = "TOO_FEW_CONFORMERS"
    # A conformer, or a molecule none of whose conformers is left.
    OTHER_GRAPH = "OTHER_GRAPH"
    OTHER_STEREO = "OTHER_STEREO"
    BROKEN = "BROKEN"


class SkippedError(ValueError):
    """A molecule or conformer that is not taken; `cause` says why."""

    def __init__(self, cause: SkipCause, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass
class Ensemble:
    """A molecule whose conformers share one graph, atom order and stereochemistry.

    Attributes:
        reference: SMILES, Mol and positions.
        graph: its features.
        dropped: cause → conformers not taken.
        stereo_changed: the SMILES of GEOM says another stereochemistry than the conformers show.
    """

    reference: ReferenceMolecule
    graph: MolGraph
    dropped: Counter[str] = field(default_factory=Counter)
    stereo_changed: bool = False


def clean(raw: RawMolecule, *, conformers: int = 0, least: int = 1, max_atoms: int = 0) -> Ensemble:
    """One molecule's ensemble.

    Args:
        raw: as stored.
        conformers: take only this many, those with the largest Boltzmann weights first; 0: all, in
            the order of the source.
        least: fewer than this many left is a reason to skip the molecule.
        max_atoms: skip larger molecules; 0 for no limit but the model's own.

    Raises:
        SkippedError: nothing could be taken.
    """
    if not raw.conformers:
        raise SkippedError(SkipCause.NO_CONFORMERS, "no conformers")
    with rdBase.BlockLogs():
        wanted = _plain_smiles(Chem.MolFromSmiles(raw.smiles))
        if wanted is None:
            raise SkippedError(SkipCause.INVALID_SMILES, f"{raw.smiles!r} is no SMILES for RDKit")
        return _Collector(raw, wanted, max_atoms).collect(conformers, least)


class _Collector:
    """The first conformer that fits makes the graph; the others are put in its atom order."""

    def __init__(self, raw: RawMolecule, wanted: str, max_atoms: int) -> None:
        self._raw, self._wanted, self._max_atoms = raw, wanted, max_atoms
        self._mol: Chem.Mol
        self._started = False

    def collect(self, limit: int, least: int) -> Ensemble:
        order = range(len(self._raw.conformers))
        # Before any graph is chosen the heaviest conformer comes first, ties in file order.
        heaviest = sorted(order, key=lambda k: -(self._raw.conformers[k].weight or 0.0))
        kept: dict[int, np.ndarray] = {}
        dropped: Counter[str] = Counter()
        last = ""
        for k in heaviest:
            if limit and len(kept) == limit:
                break
            try:
                kept[k] = self._positions(self._raw.conformers[k])
            except SkippedError as error:
                if error.cause in (SkipCause.UNSUPPORTED_ATOM, SkipCause.TOO_LARGE):
                    raise
                dropped[error.cause.value] += 1
                last = str(error)
        if not kept:
            raise SkippedError(SkipCause(dropped.most_common(1)[0][0]), last)
        if len(kept) < least:
            raise SkippedError(SkipCause.TOO_FEW_CONFORMERS, f"{len(kept)} conformers, not {least}")
        rows = list(kept) if limit else sorted(kept)
        found = [self._raw.conformers[k].energy for k in rows]
        energies = None
        if all(e is not None for e in found):
            energies = np.array(found, float) - min(e for e in found if e is not None)
        reference = ReferenceMolecule(
            self._smiles, self._mol, np.stack([kept[k] for k in rows]), energies
        )
        changed = not _agrees(self._raw.smiles, self._smiles)
        return Ensemble(reference, self._graph, dropped, changed)

    def _positions(self, raw: RawConformer) -> np.ndarray:
        """Positions (N, 3) of one conformer in the atom order of the graph."""
        mol, positions = _opened(raw)
        if not self._started:
            self._start(mol, positions)
        if _bonds(mol) == self._bonds:
            ordered = positions[self._order]
            if self._right(ordered):
                return ordered
        # Other places of charges and double bonds, or of equal halves, may be the same molecule.
        if _plain_smiles(mol) != self._wanted:
            raise SkippedError(SkipCause.OTHER_GRAPH, "its bonds are not those of the SMILES")
        order = _with_stereo(mol, positions).GetSubstructMatch(self._mol, useChirality=True)
        if len(order) == len(positions) and self._right(positions[list(order)]):
            return positions[list(order)]
        raise SkippedError(SkipCause.OTHER_STEREO, "another stereoisomer")

    def _right(self, positions: np.ndarray) -> bool:
        wrong = wrong_centers(positions, self._tables).any()
        return not (wrong or wrong_double_bonds(positions, self._tables).any())

    def _start(self, mol: Chem.Mol, positions: np.ndarray) -> None:
        if _plain_smiles(mol) != self._wanted:
            raise SkippedError(SkipCause.OTHER_GRAPH, "its bonds are not those of the SMILES")
        limit = self._max_atoms
        if limit and mol.GetNumAtoms() > limit:
            raise SkippedError(SkipCause.TOO_LARGE, f"{mol.GetNumAtoms()} atoms, above {limit}")
        shown = _with_stereo(mol, positions)
        smiles = Chem.MolToSmiles(Chem.RemoveHs(shown))
        parsed = Chem.MolFromSmiles(smiles)
        made = None if parsed is None else Chem.AddHs(parsed)
        if made is None or made.GetNumAtoms() != mol.GetNumAtoms():
            raise SkippedError(SkipCause.BROKEN, f"{smiles} is not the molecule it was written for")
        problem = fault(made)
        if problem is not None:
            raise SkippedError(SkipCause.__members__.get(problem[0], SkipCause.BROKEN), problem[1])
        try:
            graph = featurize(made)
        except UnsupportedAtomError as error:
            raise SkippedError(SkipCause.UNSUPPORTED_ATOM, str(error)) from error
        order = shown.GetSubstructMatch(made, useChirality=True)
        if len(order) != made.GetNumAtoms():
            raise SkippedError(SkipCause.BROKEN, f"{smiles} cannot be laid on its own atoms")
        self._started = True
        self._mol, self._smiles, self._graph = made, smiles, graph
        self._order, self._bonds = np.array(order, int), _bonds(mol)
        self._tables = stereo_tables(made)


def _opened(raw: RawConformer) -> tuple[Chem.Mol, np.ndarray]:
    """Sanitised Mol without conformers, and its positions (N, 3) in Å."""
    try:
        mol = Chem.Mol(raw.binary)  # type: ignore[call-overload]  # takes bytes as well
        Chem.SanitizeMol(mol)
        positions = raw.positions
        if positions is None:
            positions = mol.GetConformer().GetPositions()
    except Exception as error:  # RDKit has a type for each way in which a Mol can be broken
        raise SkippedError(SkipCause.BROKEN, f"RDKit cannot use it ({error})") from error
    positions = np.asarray(positions, np.float64)
    if positions.shape != (mol.GetNumAtoms(), 3) or not np.isfinite(positions).all():
        raise SkippedError(SkipCause.BROKEN, "positions are missing or not finite")
    if not len(positions):
        raise SkippedError(SkipCause.BROKEN, "no atoms")
    centered = positions - positions.mean(0)
    if np.abs(centered).max() > MAX_RADIUS:
        raise SkippedError(SkipCause.BROKEN, f"an atom is {np.abs(centered).max():.0f} Å away")
    between = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    if between[np.triu_indices(len(positions), 1)].min(initial=np.inf) < MIN_DISTANCE:
        raise SkippedError(SkipCause.BROKEN, "two atoms lie on one place")
    mol.RemoveAllConformers()
    return mol, centered


def _plain_smiles(mol: Chem.Mol | None) -> str | None:
    """Canonical SMILES without stereochemistry; hydrogens only as counts."""
    if mol is None:
        return None
    try:
        return Chem.MolToSmiles(Chem.RemoveAllHs(mol), isomericSmiles=False)
    except (ValueError, RuntimeError):
        return None


def _with_stereo(mol: Chem.Mol, positions: np.ndarray) -> Chem.Mol:
    """A copy whose stereochemistry is what the positions show."""
    copy = Chem.Mol(mol)
    conformer = Chem.Conformer(len(positions))
    conformer.SetPositions(np.ascontiguousarray(positions))
    conformer.Set3D(True)
    copy.AddConformer(conformer, assignId=True)
    Chem.AssignStereochemistryFrom3D(copy, replaceExistingTags=True)
    return copy


def _bonds(mol: Chem.Mol) -> tuple:
    """Equal for Mols that are the same atom by atom, stereochemistry aside."""
    return (
        tuple((a.GetAtomicNum(), a.GetFormalCharge()) for a in mol.GetAtoms()),
        sorted(
            (*sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())), int(b.GetBondType()))
            for b in mol.GetBonds()
        ),
    )


def _agrees(given: str, found: str) -> bool:
    """Whether every stereo label of one SMILES is in the other."""
    query, target = Chem.MolFromSmiles(given), Chem.MolFromSmiles(found)
    return bool(target.HasSubstructMatch(query, useChirality=True))
