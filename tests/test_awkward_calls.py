"""Old conformers, ids with gaps, odd counts and typos: a call does what RDKit's own would do."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import accounted, embedded, mol_from, positions_of
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from rdgeodiff import EmbedMoleculeDiffusion, EmbedMoleculesDiffusion, FailureCause

QUICK = {"steps": 8, "randomSeed": 3}


def test_duplicates_in_a_list_differ_and_repeat():
    def draw() -> list[np.ndarray]:
        mols = [mol_from("CCCCO") for _ in range(3)]
        EmbedMoleculesDiffusion(mols, 1, **QUICK)
        return [positions_of(m)[0] for m in mols]

    first, again = draw(), draw()
    for k in range(3):
        assert np.array_equal(first[k], again[k])
        assert all(np.abs(first[k] - first[j]).max() > 0.1 for j in range(k))


def with_poisoned_conformer(smiles: str) -> Chem.Mol:
    mol = embedded(smiles)
    mol.GetConformer(0).SetPositions(np.full((mol.GetNumAtoms(), 3), np.nan))
    return mol


@pytest.mark.parametrize("threshold", [-1.0, 0.1])
def test_existing_conformers_of_nan_spoil_nothing(threshold):
    mol = with_poisoned_conformer("CCO")
    assert EmbedMoleculeDiffusion(mol, 1, clearConfs=False, pruneRmsThresh=threshold) == [1]
    assert np.isnan(mol.GetConformer(0).GetPositions()).all()
    assert np.isfinite(mol.GetConformer(1).GetPositions()).all()
    assert EmbedMoleculeDiffusion(mol, 2, **QUICK) == [0, 1]
    assert np.isfinite(positions_of(mol)).all()


def test_conformer_ids_with_gaps_are_continued():
    mol = embedded("CCO", 4)
    for k in (0, 2):
        mol.RemoveConformer(k)
    kept = positions_of(mol)
    assert EmbedMoleculeDiffusion(mol, 2, clearConfs=False, **QUICK) == [4, 5]
    assert [c.GetId() for c in mol.GetConformers()] == [1, 3, 4, 5]
    assert np.array_equal(positions_of(mol)[:2], kept)


@pytest.mark.parametrize("clear", [True, False])
def test_after_a_total_failure(play, clear):
    """As RDKit: old conformers go before anything is tried, unless they are to stay."""
    play(lambda request: FailureCause.NONFINITE)
    mol = embedded("CCO", 2)
    assert EmbedMoleculeDiffusion(mol, 3, clearConfs=clear) == []
    assert mol.GetNumConformers() == (0 if clear else 2)


@pytest.mark.parametrize("change", [-1, 1, None], ids=["one less", "one more", "not 3D"])
def test_positions_of_a_wrong_shape_are_an_error_of_ours(play, change):
    n = mol_from("CCO").GetNumAtoms()
    shape = (n, 2) if change is None else (n + change, 3)
    play(lambda request: np.random.default_rng(0).normal(size=shape) * 3)
    mol = mol_from("CCO")
    with pytest.raises(ValueError, match="shape"):
        EmbedMoleculeDiffusion(mol, 1)
    assert mol.GetNumConformers() == 0


def test_numbers_of_conformers(play):
    mol = embedded("CO")
    play(lambda request: mol_positions)
    mol_positions = mol.GetConformer().GetPositions()
    mols = [mol_from("CO") for _ in range(3)]
    results = EmbedMoleculesDiffusion(mols, np.array([0, 2, 1]))
    assert [r.conf_ids for r in results] == [[], [0, 1], [0]]
    assert all(r.ok and accounted(r) for r in results)
    assert EmbedMoleculeDiffusion(mols[1], np.int64(0)) == []
    assert mols[1].GetNumConformers() == 0


def test_a_typo_in_rdkits_own_parameters_or_ours():
    with pytest.raises(AttributeError):
        rdDistGeom.ETKDGv3().randomSed = 1
    with pytest.raises(TypeError, match="unknown keyword.*pruneRmsThreshold"):
        EmbedMoleculesDiffusion([mol_from("C")], 1, pruneRmsThreshold=0.5)
