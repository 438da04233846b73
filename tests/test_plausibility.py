"""Broken structures are told from whole ones, and no reference conformer is refused."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from rdgeodiff.chem.conformers import prune
from rdgeodiff.chem.fragments import GAP, assemble, split
from rdgeodiff.chem.plausibility import Fault, Plausibility
from rdgeodiff.chem.stereo import stereo_tables
from rdgeodiff.chem.verdict import Judge

# Strained, bridged, caged, macrocyclic, hypervalent, charged, chalcogen and hydrogen bonded.
HARD = [
    "C12C3C4C1C5C2C3C45",
    "C1C2CC1C2",
    "C1CC2(C1)CC2",
    "C1CCCCCCCCCCCCC1",
    "O=S(=O)(N)c1ccccc1",
    "OC(=O)c1ccccc1O",
    "[NH3+]CC(=O)[O-]",
    "C1=CC2CCC1C2",
    "C#CC#CC",
    "CP(=O)(O)O",
    "FS(F)(F)(F)(F)F",
    "c1ccc2c(c1)ccc1ccccc12",
    "C[Si](C)(C)Cl",
    "OB(O)c1ccccc1",
    "[H][H]",
    "C=[N+]=[N-]",
]


def embedded(smiles, count=3):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    ids = rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=11)
    assert len(ids) == count
    return mol, np.array([mol.GetConformer(k).GetPositions() for k in ids])


@pytest.mark.parametrize("smiles", HARD)
def test_no_false_alarm(smiles):
    mol, positions = embedded(smiles)
    assert Plausibility(mol).causes(positions) == [None] * 3
    judge = Judge(mol, stereo_tables(mol))
    assert [judge.judge(p).cause for p in positions] == [None] * 3


def test_atoms_without_force_field_types_still_have_limits():
    mol = Chem.AddHs(Chem.MolFromSmiles("CI=C"))  # a valence no force field knows
    assert Plausibility(mol).cause(np.random.default_rng(0).normal(size=(mol.GetNumAtoms(), 3)) * 9)


def test_each_fault_is_named():
    mol, positions = embedded("CCCCCC", 1)
    check = Plausibility(mol)
    good = positions[0]
    nan = good.copy()
    nan[3, 1] = np.nan
    stretched = good.copy()
    end = 19  # a hydrogen of the last methyl group
    carbon = mol.GetAtomWithIdx(end).GetNeighbors()[0].GetIdx()
    stretched[end] += 1.5 * (good[end] - good[carbon])
    angle = good.copy()
    sibling = next(
        n.GetIdx() for n in mol.GetAtomWithIdx(carbon).GetNeighbors() if n.GetIdx() != end
    )
    toward = good[sibling] - good[carbon]
    angle[end] = good[carbon] + toward / np.linalg.norm(toward) * 1.09
    assert check.causes(np.stack([good, nan, stretched, angle])) == [
        None,
        Fault.NONFINITE,
        Fault.BOND_LENGTH,
        Fault.BOND_ANGLE,
    ]
    assert check.cause(good * 1.4) == Fault.BOND_LENGTH


def test_a_chain_curled_onto_itself_clashes():
    mol, _ = embedded("CCCCCCCC", 1)
    conformer = mol.GetConformer()
    for k in range(5):
        rdMolTransforms.SetDihedralDeg(conformer, k, k + 1, k + 2, k + 3, 0.0)
    assert Plausibility(mol).cause(conformer.GetPositions()) == Fault.CLASH


def test_rdkits_reading_of_the_stereo_is_a_second_opinion():
    mol, positions = embedded("C[C@H](F)/C=C/[C@@H](O)C#N")
    judge = Judge(mol, stereo_tables(mol))
    assert judge._perceived_fault(positions[0]) is None
    assert judge._perceived_fault(-positions[0]) == "STEREO"
    other = Chem.AddHs(Chem.MolFromSmiles(r"C[C@H](F)/C=C\[C@@H](O)C#N"))
    assert Judge(other, stereo_tables(other))._perceived_fault(positions[0]) == "DOUBLE_BOND_STEREO"


def test_ring_meso_centres_are_judged_by_geometry():
    for smiles in ("C[C@H]1CC[C@@H](C)CC1", "C[C@H]1CC[C@H](C)CC1", "O[C@H]1[C@@H](O)C1"):
        mol, positions = embedded(smiles)
        judge = Judge(mol, stereo_tables(mol))
        assert [judge.judge(p).cause for p in positions] == [None] * 3


def test_fragments_keep_their_stereo_and_do_not_touch():
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@H](F)Cl.[Na+].F[C@](Cl)(Br)/C=C/[C@@H](O)C#N.O.O"))
    whole, fragments = stereo_tables(mol), split(mol)
    assert [len(f.atoms) for f in fragments] == [8, 1, 14, 3, 3]
    tables = [(f, stereo_tables(f.mol)) for f in fragments]
    assert (
        np.concatenate([f.atoms[t.centers] for f, t in tables]).tolist() == whole.centers.tolist()
    )
    assert np.concatenate([t.parities for _, t in tables]).tolist() == whole.parities.tolist()
    bonds = np.concatenate([f.atoms[t.double_bonds] for f, t in tables])
    assert bonds.tolist() == whole.double_bonds.tolist()

    rng = np.random.default_rng(3)
    parts = [rng.normal(size=(len(f.atoms), 3)) * 2 for f in fragments]
    placed = assemble(fragments, parts)
    assert np.array_equal(placed, assemble(fragments, parts))
    for k, one in enumerate(fragments):
        inner = placed[one.atoms] - placed[one.atoms][0]
        assert np.allclose(inner, parts[k] - parts[k][0])
        for other in fragments[k + 1 :]:
            gaps = placed[one.atoms][:, None] - placed[other.atoms]
            assert np.linalg.norm(gaps, axis=-1).min() >= GAP - 1e-9


@pytest.mark.parametrize("smiles", ["CCCCCC(=O)[O-]", "CC(C)CC(C)(C)CO"])
def test_pruning_is_rdkits(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, 30, randomSeed=5)
    positions = [c.GetPositions() for c in mol.GetConformers()]
    kept = prune(mol, positions, 0.5)
    reference = Chem.Mol(mol)
    rdDistGeom.EmbedMultipleConfs(reference, 30, randomSeed=5, pruneRmsThresh=0.5)
    assert len(kept) == reference.GetNumConformers() < 30
    for k, conformer in zip(kept, reference.GetConformers(), strict=True):
        assert np.allclose(positions[k], conformer.GetPositions(), atol=1e-4)
    assert prune(mol, positions, -1.0) == list(range(30))
