"""What can be made conformers of: one record of the input → a molecule with all its stereo chosen.

What cannot is refused with a cause, before any time is spent on it.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rdkit import Chem, rdBase
from rdkit.Chem import EnumerateStereoisomers

from rdgeodiff.chem.featurize import UnsupportedAtomError, featurize
from rdgeodiff.chem.formats import Record
from rdgeodiff.chem.readers import read_molecules
from rdgeodiff.data.arrays import read_arrays

MOST_ISOMERS = 16  # tried, in random order, until one of them can be built in three dimensions
_TRANSITION = {*range(21, 31), *range(39, 49), *range(57, 81), *range(89, 113)}


class Refusal(StrEnum):
    """Why no conformers are made of a molecule."""

    INVALID_INPUT = "INVALID_INPUT"
    NO_ATOMS = "NO_ATOMS"
    SEVERAL_FRAGMENTS = "SEVERAL_FRAGMENTS"
    TRANSITION_METAL = "TRANSITION_METAL"
    UNSUPPORTED_ATOM = "UNSUPPORTED_ATOM"
    TOO_LARGE = "TOO_LARGE"
    EXCLUDED = "EXCLUDED"
    REPEATED = "REPEATED"


class RefusedError(ValueError):
    """A molecule of which no conformers are made; `cause` says why in a word."""

    def __init__(self, message: str, cause: Refusal) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class Candidate:
    """A molecule of the input that conformers can be made of.

    Attributes:
        mol: without explicit hydrogens and conformers; stereo may be unspecified.
        smiles: canonical, of `mol`.
        seed: of everything random done for it: the same molecule, the same result.
    """

    mol: Chem.Mol
    smiles: str
    seed: int

    def isomers(self) -> Iterator[tuple[str, Chem.Mol]]:
        """(SMILES, Mol with hydrogens) of stereoisomers that agree with `mol`, in random order.

        The atoms of a Mol stand in the order its SMILES gives them, as archives want it.
        """
        generator = random.Random(self.seed)
        options = EnumerateStereoisomers.StereoEnumerationOptions(
            onlyUnassigned=True, unique=True, maxIsomers=MOST_ISOMERS, rand=generator
        )
        with rdBase.BlockLogs():
            found = [
                Chem.MolToSmiles(isomer)
                for isomer in EnumerateStereoisomers.EnumerateStereoisomers(self.mol, options)
            ]
        found = sorted(set(found))
        generator.shuffle(found)
        for smiles in found:
            yield smiles, Chem.AddHs(Chem.MolFromSmiles(smiles))


class Gate:
    """Lets records through in the order of the file, each molecule once.

    Args:
        seed: of the whole set.
        max_heavy_atoms: larger molecules are refused; 0 takes any.
        excluded: `graph_key` of molecules to leave out.
    """

    def __init__(
        self, seed: int = 0, max_heavy_atoms: int = 0, excluded: Iterable[str] = ()
    ) -> None:
        self._seed, self._most = seed, max_heavy_atoms
        self._excluded, self._seen = set(excluded), dict[str, int]()

    def admit(self, record: Record) -> Candidate:
        """The molecule of `record`; RefusedError where there is nothing to make."""
        if record.mol is None:
            raise RefusedError(record.error or "not a molecule", Refusal.INVALID_INPUT)
        with rdBase.BlockLogs():
            mol = Chem.RemoveHs(record.mol)
        mol.RemoveAllConformers()
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
        self._check(mol)
        if self._excluded and graph_key(mol) in self._excluded:
            raise RefusedError("in a file of --exclude", Refusal.EXCLUDED)
        smiles = Chem.MolToSmiles(mol)
        parsed = Chem.MolFromSmiles(smiles)
        if parsed is None:
            raise RefusedError(f"its SMILES {smiles} cannot be read back", Refusal.INVALID_INPUT)
        first = self._seen.setdefault(smiles, record.row)
        if first != record.row:
            raise RefusedError(f"the same molecule as in row {first}", Refusal.REPEATED)
        digest = hashlib.sha256(f"{self._seed}\n{smiles}".encode()).digest()
        return Candidate(parsed, smiles, int.from_bytes(digest[:4], "little") >> 1)

    def _check(self, mol: Chem.Mol) -> None:
        heavy = mol.GetNumHeavyAtoms()
        if not mol.GetNumAtoms():
            raise RefusedError("no atoms", Refusal.NO_ATOMS)
        if self._most and heavy > self._most:
            raise RefusedError(f"{heavy} heavy atoms, {self._most} at most", Refusal.TOO_LARGE)
        fragments = len(Chem.GetMolFrags(mol))
        if fragments > 1:
            raise RefusedError(
                f"{fragments} fragments, whose places to each other mean nothing: "
                "leave salts and solvents out",
                Refusal.SEVERAL_FRAGMENTS,
            )
        for atom in mol.GetAtoms():
            if atom.GetAtomicNum() in _TRANSITION:
                raise RefusedError(
                    f"{atom.GetSymbol()}: a graph does not tell a transition metal's spin state",
                    Refusal.TRANSITION_METAL,
                )
        try:
            featurize(mol)
        except UnsupportedAtomError as error:
            raise RefusedError(str(error), Refusal.UNSUPPORTED_ATOM) from error


def graph_key(mol: Chem.Mol) -> str:
    """A text two molecules share if they differ in stereochemistry at most."""
    with rdBase.BlockLogs():
        return Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)


def graph_keys(paths: Iterable[str | os.PathLike[str]]) -> set[str]:
    """`graph_key` of the molecules of archives of conformers and of files of molecules."""
    return {graph_key(mol) for path in paths for mol in _molecules_of(path)}


def _molecules_of(path: str | os.PathLike[str]) -> list[Chem.Mol]:
    if Path(path).suffix == ".npz":
        arrays = read_arrays(path)
        if "smiles" not in arrays:
            raise ValueError(f"{path}: not an archive of conformers (no smiles)")
        found: list[Chem.Mol | None] = [
            Chem.MolFromSmiles(str(smiles)) for smiles in arrays["smiles"]
        ]
    else:
        found = [record.mol for record in read_molecules(path, add_hs=False)]
    return [mol for mol in found if mol is not None]
