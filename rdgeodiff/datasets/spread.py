"""What a data set is made of: sizes, elements, charges, rings, rotatable bonds, energies."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from tqdm.auto import tqdm

from rdgeodiff.data.conformer_sets import ReferenceMolecule
from rdgeodiff.datasets.molecules import graph_key
from rdgeodiff.evaluation.references import read_references

# Attribute of `SetFacts` → title, of the numbers that each molecule has one of.
NUMBERS = {
    "conformers": "conformers a molecule",
    "atoms": "atoms",
    "heavy": "heavy atoms",
    "rotatable": "rotatable bonds",
    "rings": "rings",
    "largest_ring": "largest ring",
    "centers": "stereo centres",
    "energy_spread": "energy spread, kcal/mol",
}
MACROCYCLE = 12  # atoms of the smallest ring that is called one


@dataclass
class SetFacts:
    """Facts of one set, an entry a molecule.

    Attributes:
        name: of the file.
        keys: graphs without stereochemistry.
        conformers: reference conformers.
        atoms, heavy: sizes with and without hydrogens.
        rotatable: rotatable bonds, by RDKit's strict rule.
        rings: rings of the smallest set; largest_ring: atoms of the largest of them, 0 without.
        centers: stereo centres and double bonds that are specified.
        energy_spread: kcal/mol from the lowest to the highest of several conformers, where known.
        elements: symbol → molecules it occurs in.
        charges: total charge → molecules.
    """

    name: str
    keys: list[str] = field(default_factory=list)
    conformers: list[int] = field(default_factory=list)
    atoms: list[int] = field(default_factory=list)
    heavy: list[int] = field(default_factory=list)
    rotatable: list[int] = field(default_factory=list)
    rings: list[int] = field(default_factory=list)
    largest_ring: list[int] = field(default_factory=list)
    centers: list[int] = field(default_factory=list)
    energy_spread: list[float] = field(default_factory=list)
    elements: Counter[str] = field(default_factory=Counter)
    charges: Counter[int] = field(default_factory=Counter)

    def add(self, molecule: ReferenceMolecule) -> None:
        """Count a molecule."""
        mol = molecule.mol
        # A hydroxyl group's hydrogen would make its bond one that turns something.
        heavy = Chem.RemoveHs(mol)
        sizes = [len(ring) for ring in mol.GetRingInfo().AtomRings()]
        specified = sum(
            element.specified == Chem.StereoSpecified.Specified
            for element in Chem.FindPotentialStereo(Chem.Mol(mol))
        )
        self.keys.append(graph_key(mol))
        self.conformers.append(len(molecule.positions))
        self.atoms.append(mol.GetNumAtoms())
        self.heavy.append(mol.GetNumHeavyAtoms())
        self.rotatable.append(rdMolDescriptors.CalcNumRotatableBonds(heavy))
        self.rings.append(len(sizes))
        self.largest_ring.append(max(sizes, default=0))
        self.centers.append(specified)
        if molecule.energies is not None and len(molecule.energies) > 1:
            self.energy_spread.append(float(np.ptp(molecule.energies)))
        self.elements.update({atom.GetSymbol() for atom in mol.GetAtoms()})
        self.charges[Chem.GetFormalCharge(mol)] += 1

    @property
    def repeated(self) -> int:
        """Molecules whose graph, without stereo, came before in the same set."""
        return len(self.keys) - len(set(self.keys))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "molecules": len(self.keys),
            "conformers": sum(self.conformers),
            "repeated_graphs": self.repeated,
            "macrocycles": sum(size >= MACROCYCLE for size in self.largest_ring),
            "spreads": {name: _spread(getattr(self, name)) for name in NUMBERS},
            "elements": dict(self.elements.most_common()),
            "charges": {str(charge): n for charge, n in sorted(self.charges.items())},
        }


def read_facts(path: str | os.PathLike[str], *, progress: bool = False) -> SetFacts:
    """Facts of an archive, a shard, or another file of references.

    Raises:
        ArchiveError, ShardError: not such a file, or damaged.
    """
    facts = SetFacts(Path(path).name)
    molecules: Iterable[ReferenceMolecule] = read_references(path)
    for molecule in tqdm(molecules, desc=facts.name, unit="mol", delay=1.0, disable=not progress):
        facts.add(molecule)
    return facts


@dataclass(frozen=True)
class Leak:
    """Graphs two sets share, stereochemistry aside.

    Attributes:
        one, other: names of the sets.
        shared: graphs that are in both.
        molecules: of `one` with such a graph, and of `other`.
        examples: some of them, as SMILES.
    """

    one: str
    other: str
    shared: int
    molecules: tuple[int, int]
    examples: tuple[str, ...]


def find_leaks(sets: list[SetFacts], examples: int = 3) -> list[Leak]:
    """The overlap of every two sets, those without any included."""
    leaks = []
    for k, one in enumerate(sets):
        for other in sets[k + 1 :]:
            shared = set(one.keys) & set(other.keys)
            here, there = (sum(key in shared for key in s.keys) for s in (one, other))
            some = tuple(sorted(shared)[:examples])
            leaks.append(Leak(one.name, other.name, len(shared), (here, there), some))
    return leaks


def _spread(values: list[int] | list[float]) -> dict[str, float] | None:
    """Mean, and the smallest, 5 %, middle, 95 % and largest value; None without values."""
    if not values:
        return None
    low, five, middle, most, high = np.quantile(values, [0.0, 0.05, 0.5, 0.95, 1.0]).tolist()
    return {
        "mean": float(np.mean(values)),
        "min": low,
        "5%": five,
        "median": middle,
        "95%": most,
        "max": high,
    }
