"""The robustness benchmark's own reading of stereo can be trusted, and its table counts right."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from helpers import embedded, mol_from, positions_of
from rdkit import Chem
from stereo_molecules import STEREO_SMILES

PATH = Path(__file__).parent.parent / "benchmarks" / "robustness.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("robustness", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inverted(mol: Chem.Mol) -> list[Chem.Mol]:
    """The molecule with one centre inverted, for each centre."""
    others = []
    for atom in mol.GetAtoms():
        if atom.GetChiralTag():
            others.append(Chem.Mol(mol))
            others[-1].GetAtomWithIdx(atom.GetIdx()).InvertChirality()
    return others


def turned(smiles: str) -> set[str]:
    """The SMILES with its first, and with its last, double bond the other way round."""
    slashes = [k for k, letter in enumerate(smiles) if letter in "/\\"]
    other = {"/": "\\", "\\": "/"}
    ends = {slashes[0], slashes[-1]} if slashes else set()
    return {smiles[:k] + other[smiles[k]] + smiles[k + 1 :] for k in ends}


@pytest.mark.parametrize("smiles", STEREO_SMILES)
def test_right_conformers_are_right_and_wrong_ones_wrong(benchmark, smiles):
    mol = embedded(smiles, 2)
    assert all(benchmark.is_right(mol, k) for k in range(2))
    for other in inverted(mol):
        assert not any(benchmark.is_right(other, k) for k in range(2))
    for other in map(embedded, turned(smiles) if "C1" not in smiles else []):
        mol.GetConformer(0).SetPositions(positions_of(other)[0])
        assert not benchmark.is_right(mol, 0)


@pytest.mark.parametrize(
    "smiles", ["CC(F)C=CC", "CC=CC=CC", "CC=C[C@H](F)C", "C/C=C/C=CC", "CC(F)Cl", "CC=NO"]
)
def test_stereo_nobody_specified_cannot_be_wrong(benchmark, smiles):
    mol = embedded(smiles, 8)
    assert all(benchmark.is_right(mol, k) for k in range(8))


def test_a_position_that_is_not_finite_is_wrong(benchmark):
    mol = embedded("CCO", 1)
    positions = positions_of(mol)[0]
    positions[1, 1] = float("nan")
    mol.GetConformer().SetPositions(positions)
    assert not benchmark.is_right(mol, 0)


def test_groups_are_of_one_set_and_bad_inputs_alone(benchmark):
    sets = ["a"] * 5 + ["b"] * 2 + [benchmark.BAD] * 2
    records = [{"set": name, "number": k} for k, name in enumerate(sets)]
    groups = list(benchmark.groups(records, 3))
    assert [len(g) for g in groups] == [3, 2, 2, 1, 1]
    assert [r["number"] for g in groups for r in g] == list(range(9))


def test_the_bad_inputs_are_read(benchmark):
    records = list(benchmark.molecules([], []))
    assert len({r["name"] for r in records}) == len(records) > 40
    assert benchmark.read("") is not None and benchmark.read("C1CC") is None
    assert benchmark.read("CCO").GetNumAtoms() == mol_from("CCO").GetNumAtoms()
