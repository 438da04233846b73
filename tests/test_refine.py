"""Refinement: conformers are mended in place, under their ids, without leaving their basin."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import embedded, mol_from, positions_of
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from rdgeodiff import (
    DiffusionEmbedParameters,
    FailureCause,
    RefineConformersDiffusion,
    RefineMoleculesDiffusion,
)
from rdgeodiff.chem.stereo import stereo_tables, wrong_centers

SMILES = "C[C@H](N)C(=O)Nc1ccc(F)cc1"


def shaken(mol: Chem.Mol, size: float, seed: int = 0) -> Chem.Mol:
    copy = Chem.Mol(mol)
    generator = np.random.default_rng(seed)
    for conformer in copy.GetConformers():
        positions = conformer.GetPositions()
        conformer.SetPositions(positions + size * generator.standard_normal(positions.shape))
    return copy


def energies(mol: Chem.Mol) -> np.ndarray:
    """MMFF94 energies in kcal/mol of the conformers as they are."""
    copy = Chem.Mol(mol)
    return np.array([e for _, e in rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(copy, maxIters=0)])


def displacement(a: Chem.Mol, b: Chem.Mol) -> np.ndarray:
    return np.sqrt(((positions_of(a) - positions_of(b)) ** 2).sum(-1).mean(-1))


def test_shaken_conformers_are_mended_where_they_are():
    good = embedded(SMILES, 3)
    for conformer in good.GetConformers():
        conformer.SetPositions(conformer.GetPositions() + 50.0)
    bad = shaken(good, 0.15)
    mol = Chem.Mol(bad)
    assert RefineConformersDiffusion(mol, 0.3, randomSeed=1) == [0, 1, 2]
    assert (energies(mol) < energies(bad) - 100).all()
    assert displacement(mol, good).max() < 1.0
    for k, conformer in enumerate(mol.GetConformers()):
        assert conformer.GetId() == k and conformer.Is3D()


def test_the_larger_sigma_the_further_it_may_move():
    good = embedded(SMILES, 4)
    moved = []
    for sigma in (0.05, 0.3, 2.0):
        mol = Chem.Mol(good)
        assert len(RefineConformersDiffusion(mol, sigma, randomSeed=1)) == 4
        moved.append(displacement(mol, good).mean())
    assert moved[0] < 0.3 and moved[0] < moved[1] < moved[2]


def test_ids_other_conformers_and_properties_stay():
    mol = embedded(SMILES, 4)
    for k, conformer in enumerate(mol.GetConformers()):
        conformer.SetId(10 + k)
        conformer.SetProp("pose", str(k))
    before = positions_of(mol)
    assert RefineConformersDiffusion(mol, 0.2, confIds=[12, 10], randomSeed=1) == [12, 10]
    assert [c.GetId() for c in mol.GetConformers()] == [10, 11, 12, 13]
    assert [c.GetProp("pose") for c in mol.GetConformers()] == ["0", "1", "2", "3"]
    changed = np.abs(positions_of(mol) - before).max((1, 2)) > 1e-6
    assert changed.tolist() == [True, False, True, False]


def test_the_wrong_hand_is_made_right():
    mol = embedded("C[C@](F)(Cl)Br", 2)
    for conformer in mol.GetConformers():
        conformer.SetPositions(conformer.GetPositions() * [-1, 1, 1])
    assert RefineConformersDiffusion(mol, 0.5, randomSeed=1) == [0, 1]
    assert not wrong_centers(positions_of(mol), stereo_tables(mol)).any()


def test_what_cannot_be_refined_stays_and_is_counted():
    good, bad = embedded("CCO", 2), embedded("CCO", 2)
    bad.GetConformer(1).SetPositions(np.full((9, 3), np.nan))
    results = RefineMoleculesDiffusion([good, None, mol_from("CC"), bad], 0.2, randomSeed=1)
    assert [r.conf_ids for r in results] == [[0, 1], [], [], [0]]
    assert "None" in results[1].error and "no conformers" in results[2].error
    assert results[3].failures == {"INVALID_INPUT": 1}
    assert np.isnan(bad.GetConformer(1).GetPositions()).all()
    hopeless = embedded("CCO", 1)
    hopeless.GetConformer().SetPositions(100 * hopeless.GetConformer().GetPositions())
    before = positions_of(hopeless)
    params = DiffusionEmbedParameters(trackFailures=True, maxIterations=2)
    assert RefineConformersDiffusion(hopeless, 0.05, params=params) == []
    assert np.array_equal(positions_of(hopeless), before)
    assert sum(params.GetFailureCounts().values()) == 2


def test_fragments_keep_their_places_and_bare_molecules_work():
    mol = embedded("CC(=O)[O-].[Na+].CCO", 1)
    mol.GetConformer().SetAtomPosition(4, (5.0, 6.0, 7.0))
    before = mol.GetConformer().GetPositions()
    assert RefineConformersDiffusion(mol, 0.1, randomSeed=1) == [0]
    after = mol.GetConformer().GetPositions()
    assert np.allclose(after[4], [5, 6, 7]) and np.abs(after - before).max() < 1.0
    bare = Chem.RemoveHs(embedded("CCCO", 1))
    assert RefineConformersDiffusion(bare, 0.1, randomSeed=1) == [0]
    assert bare.GetNumAtoms() == 4


def test_held_atoms_stay_exactly():
    mol = embedded(SMILES, 1)
    before = mol.GetConformer().GetPositions()
    held = {k: before[k] for k in range(5)}
    assert RefineConformersDiffusion(mol, 0.5, coordMap=held, randomSeed=1) == [0]
    after = mol.GetConformer().GetPositions()
    assert np.abs(after[:5] - before[:5]).max() < 0.05
    assert np.abs(after[5:] - before[5:]).max() > 0.05


def test_same_seed_same_result_in_any_company():
    mols = [embedded(s, 2) for s in (SMILES, "CCO")]
    together, alone = [Chem.Mol(m) for m in mols], Chem.Mol(mols[0])
    RefineMoleculesDiffusion(together, 0.3, randomSeed=4)
    RefineConformersDiffusion(alone, 0.3, randomSeed=4)
    assert np.abs(positions_of(together[0]) - positions_of(alone)).max() < 1e-3


@pytest.mark.parametrize("sigma", [0.0, -1.0, 1e6, float("nan")])
def test_sigma_out_of_range(sigma):
    with pytest.raises(ValueError, match="sigma must lie"):
        RefineConformersDiffusion(embedded("CCO", 1), sigma)


def test_misuse():
    mol = embedded("CCO", 1)
    with pytest.raises(ValueError, match=r"molecule 0 \(.*\) has no conformer 7"):
        RefineConformersDiffusion(mol, confIds=[0, 7])
    with pytest.raises(ValueError, match="has no conformers to refine"):
        RefineConformersDiffusion(mol_from("CCO"))
    with pytest.raises(TypeError, match="must be an RDKit Mol"):
        RefineConformersDiffusion("CCO")
    with pytest.raises(TypeError, match="several molecules"):
        RefineMoleculesDiffusion(mol)
    assert FailureCause.INVALID_INPUT == "INVALID_INPUT"
