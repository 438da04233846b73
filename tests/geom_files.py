"""Copies of GEOM in small, as the official release stores it."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

from helpers import embedded
from rdkit import Chem

from rdgeodiff.data.geom import KCAL_PER_HARTREE


def shuffled(mol: Chem.Mol, seed: int = 0) -> Chem.Mol:
    """The molecule in another order of atoms: GEOM's is not that of its SMILES."""
    order = list(range(mol.GetNumAtoms()))
    random.Random(seed).shuffle(order)
    return Chem.RenumberAtoms(mol, order)


def conformers_of(mol: Chem.Mol) -> list[Chem.Mol]:
    """One Mol per conformer."""
    return [Chem.Mol(mol, False, c.GetId()) for c in mol.GetConformers()]


def entry(mol: Chem.Mol, weight: float, energy: float = 0.0) -> dict:
    """A conformer with the keys of the official release."""
    return {
        "geom_id": 1,
        "set": 1,
        "degeneracy": 2,
        "totalenergy": -10.0 + energy / KCAL_PER_HARTREE,
        "relativeenergy": energy,
        "boltzmannweight": weight,
        "conformerweights": [weight / 2, weight / 2],
        "rd_mol": mol,
    }


def molecule(smiles: str, mols: list[Chem.Mol]) -> dict:
    """The content of a molecule's pickle, heaviest conformer last."""
    entries = [entry(m, 0.1 * (k + 1), 1.5 * k) for k, m in enumerate(mols)]
    return {"smiles": smiles, "uniqueconfs": len(mols), "charge": 0, "conformers": entries}


def folder_of(root: Path, molecules: dict[str, list[Chem.Mol]], dataset: str = "drugs") -> Path:
    """An rdkit_folder."""
    (root / dataset).mkdir(parents=True)
    summary = {}
    for smiles, mols in molecules.items():
        path = f"{dataset}/{smiles.replace('/', '_')}.pickle"
        (root / path).write_bytes(pickle.dumps(molecule(smiles, mols), protocol=3))
        summary[smiles] = {"uniqueconfs": len(mols), "pickle_path": path, "charge": 0}
    (root / f"summary_{dataset}.json").write_text(json.dumps(summary))
    return root


MOLECULES = {
    "CCC(=O)N": 3,
    "C[C@H](F)Cl": 2,
    "C[C@H](O)[C@@H](F)Br": 2,
    "C/C=C/CO": 4,
    "CC([O-])=O": 2,
}


def geom_folder(root: Path) -> Path:
    """An rdkit_folder of `MOLECULES`."""
    made = {s: conformers_of(shuffled(embedded(s, n))) for s, n in MOLECULES.items()}
    return folder_of(root, made)
