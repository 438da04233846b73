"""Broken structures are told from whole ones, and no reference conformer is refused."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from rdgeodiff import EmbedMoleculesDiffusion
from rdgeodiff.chem import verdict
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
    "c1ccc2c(c1)ccc1ccccc12",
    "C[Si](C)(C)Cl",
    "OB(O)c1ccccc1",
    "[H][H]",
    "C=[N+]=[N-]",
    "C1CC12CC2",
    "C1CC[C@@]23C[C@@H]2C[C@@H]3C1",
    "C1C2C3C2C4C1C34",
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


@pytest.mark.parametrize("smiles", ["CC12C3C4=CCC3C1C42", "C#CC12CC3=CCC1C32"])
def test_double_bonds_of_cages_may_be_bent(smiles):
    """GFN2 minima of these hold their graph with a carbon 0.51 to 0.54 Å off the plane."""
    [result] = EmbedMoleculesDiffusion([Chem.AddHs(Chem.MolFromSmiles(smiles))], 3, randomSeed=5)
    assert len(result.conf_ids) == 3


def test_six_ligands_stand_apart():
    mol = Chem.MolFromSmiles("FS(F)(F)(F)(F)F")
    positions = np.zeros((7, 3))
    positions[[0, 2, 3, 4, 5, 6]] = 1.56 * np.vstack([np.eye(3), -np.eye(3)])
    check = Plausibility(mol)
    assert check.cause(positions) is None
    turned = np.deg2rad(50)  # as distance geometry leaves them: 1.32 Å between two fluorines
    positions[0] = 1.56 * np.array([np.sin(turned), np.cos(turned), 0.0])
    assert check.cause(positions) is Fault.BOND_ANGLE


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


@pytest.mark.parametrize("smiles", ["CCOCCC1(O)CC1", "COC[C@@H]1C[C@@H]1COC", "CN1CC1"])
def test_substituents_of_a_small_ring_stand_across_it(smiles):
    """Turned into the ring's plane they lie electronvolts high, though each angle is still wide."""
    mol, positions = embedded(smiles, 1)
    check = Plausibility(mol)
    (ring,) = (r for r in mol.GetRingInfo().AtomRings() if len(r) == 3)
    turned = 0
    for index in ring:
        atom = mol.GetAtomWithIdx(index)
        outside = [n.GetIdx() for n in atom.GetNeighbors() if n.GetIdx() not in ring]
        hydrogens = [k for k in outside if mol.GetAtomWithIdx(k).GetDegree() == 1]
        if len(outside) != 2 or len(hydrogens) != 2:
            continue
        turned += 1
        axis = positions[0][index] - positions[0][list(ring)].mean(0)
        axis /= np.linalg.norm(axis)
        for degrees, fault in ((10, None), (50, Fault.BOND_ANGLE), (90, Fault.BOND_ANGLE)):
            moved = positions[0].copy()
            for k in hydrogens:
                arm = moved[k] - moved[index]
                angle = np.radians(degrees)
                moved[k] = moved[index] + (
                    arm * np.cos(angle)
                    + np.cross(axis, arm) * np.sin(angle)
                    + axis * (axis @ arm) * (1 - np.cos(angle))
                )
            assert check.cause(moved) == fault, degrees
    assert turned


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


@pytest.mark.parametrize("blind", ["_perceived_fault", "wrong_centers", "wrong_double_bonds"])
@pytest.mark.parametrize(
    "smiles",
    [
        "C[C@@H](F)[C@@H](O)[C@H](Cl)/C=C/C#N",  # one centre of three
        "C[C@@H](F)[C@H](O)[C@H](Cl)/C=C/C#N",  # two: a reflection leaves one
        r"C[C@H](F)[C@@H](O)[C@H](Cl)/C=C\C#N",  # the double bond
        r"C[C@@H](F)[C@H](O)[C@@H](Cl)/C=C\C#N",  # the mirror image, with the other double bond
    ],
)
def test_each_of_the_two_opinions_is_enough(smiles, blind, monkeypatch):
    wanted, _ = embedded("C[C@H](F)[C@@H](O)[C@H](Cl)/C=C/C#N", 1)
    _, positions = embedded(smiles, 2)
    if blind == "_perceived_fault":
        monkeypatch.setattr(Judge, blind, lambda self, positions: None)
    else:
        read = getattr(verdict, blind)
        monkeypatch.setattr(verdict, blind, lambda *a: np.zeros_like(read(*a)))
    judge = Judge(wanted, stereo_tables(wanted))
    for sample in positions:
        found = judge.judge(sample)
        assert found.cause in ("STEREO", "DOUBLE_BOND_STEREO") and found.positions is None


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
