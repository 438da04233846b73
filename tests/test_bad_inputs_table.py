"""Awkward molecules, one test a kind: each is delivered whole, or refused with a cause.

The shipped model draws with few steps here: what is tested is the handling, not the quality.
`test_bad_input.py` has what is refused for reasons other than its chemistry.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    accounted,
    is_bonded_sensibly,
    mol_from,
    positions_of,
    specified_stereo,
    written_stereo,
)
from rdkit import Chem

from rdgeodiff import EmbedMoleculeDiffusion, EmbedMoleculesDiffusion, FailureCause

QUICK = {"steps": 8, "randomSeed": 3}
CYCLOSPORIN = (
    r"CC[C@@H]1NC(=O)[C@H]([C@H](O)[C@H](C)C/C=C/C)N(C)C(=O)[C@H](C(C)C)N(C)C(=O)[C@H](CC(C)C)"
    r"N(C)C(=O)[C@H](CC(C)C)N(C)C(=O)[C@@H](C)NC(=O)[C@H](C)NC(=O)[C@H](CC(C)C)N(C)C(=O)"
    r"[C@H](C(C)C)NC(=O)[C@H](CC(C)C)N(C)C(=O)CN(C)C1=O"
)
PEPTIDE = "N[C@@H](C)C(=O)" * 20 + "O"

ACCEPTED = {
    "noble gas": "[He]",
    "hydrogen molecule": "[H][H]",
    "deuterium hydride": "[2H][H]",
    "two atoms": "Cl",
    "methyl radical": "[CH3]",
    "isopropyl radical": "C[CH]C",
    "nitric oxide": "[N]=O",
    "nitrogen": "N#N",
    "carbon monoxide": "[C-]#[O+]",
    "oxygen": "O=O",
    "iodine": "II",
    "cyanide": "[C-]#N",
    "hydroxide": "[OH-]",
    "superoxide, whose length no table has": "[O][O-]",
    "water": "O",
    "nitroxide": "CC1(C)CCCC(C)(C)N1[O]",
    "methylene": "[CH2]",
    "N-heterocyclic carbene": "CN1C=CN(C)[C]1",
    "zwitterion": "[NH3+][C@@H](C)C(=O)[O-]",
    "quaternary ammonium": "C[N+](C)(C)C",
    "carbanion": "[CH2-]C#N",
    "azide": "C[N-][N+]#N",
    "perchlorate": "[O-]Cl(=O)(=O)=O",
    "hexafluorophosphate": "F[P-](F)(F)(F)(F)F",
    "six neighbours": "FS(F)(F)(F)(F)F",
    "iodyl": "CI(=O)=O",
    "borane": "B",
    "dative bond": "C[N](C)(C)->O",
    "dative bond of a sulfoxide": "C[S](C)->O",
    "cubane": "C12C3C4C1C5C2C3C45",
    "adamantane": "C1C2CC3CC1CC(C2)C3",
    "dodecahedrane": "C12C3C4C5C1C6C7C2C8C3C9C4C1C5C6C2C7C8C9C12",
    "prismane": "C12C3C1C1C2C31",
}


def unchanged(mol: Chem.Mol, before: bytes) -> bool:
    bare = Chem.Mol(mol)
    bare.RemoveAllConformers()
    return bare.ToBinary() == before


@pytest.mark.parametrize("smiles", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_valid_chemistry_is_delivered(smiles):
    mol = mol_from(smiles)
    before = mol.ToBinary()
    [result] = EmbedMoleculesDiffusion([mol], 2, **QUICK)
    assert result.conf_ids == [0, 1], (result.failures, result.rejections)
    assert accounted(result) and result.ok
    assert all(is_bonded_sensibly(mol, p) for p in positions_of(mol))
    assert all(specified_stereo(mol, k) == written_stereo(mol) for k in result.conf_ids)
    assert unchanged(mol, before)


@pytest.mark.parametrize(
    ("smiles", "length"),
    [("N#N", 1.098), ("[C-]#[O+]", 1.128), ("Cl", 1.275), ("BrBr", 2.281), ("O=[N]", 1.151)],
)
def test_a_diatomic_has_its_measured_length(smiles, length):
    mol = mol_from(smiles)
    assert EmbedMoleculeDiffusion(mol, 2, **QUICK) == [0, 1]
    for positions in positions_of(mol):
        assert np.linalg.norm(positions[0] - positions[1]) == pytest.approx(length, abs=1e-3)


def test_a_kekulized_molecule_is_delivered():
    mol = mol_from("c1ccccc1O")
    Chem.Kekulize(mol, clearAromaticFlags=True)
    assert EmbedMoleculeDiffusion(mol, 2, **QUICK) == [0, 1]
    assert not any(a.GetIsAromatic() for a in mol.GetAtoms())


MIXTURES = {
    "salt": "[Na+].CC(=O)[O-]",
    "metal ions of a metallocene": "[Fe+2].[cH-]1cccc1.[cH-]1cccc1",
    "three kinds": "CCO.c1ccccc1.O",
    "equal fragments": "CO.CO.CO",
    "ions only": "[Li+].[F-]",
    "many": ".".join(["O"] * 6 + ["[Na+]", "[Cl-]"]),
}


@pytest.mark.parametrize("smiles", MIXTURES.values(), ids=MIXTURES.keys())
def test_fragments_lie_apart(smiles):
    mol = mol_from(smiles)
    [result] = EmbedMoleculesDiffusion([mol], 2, **QUICK)
    assert result.conf_ids == [0, 1]
    for positions in positions_of(mol):
        groups = [positions[list(g)] for g in Chem.GetMolFrags(mol)]
        for k, one in enumerate(groups):
            for other in groups[:k]:
                assert np.linalg.norm(one[:, None] - other, axis=-1).min() > 2.5
        assert is_bonded_sensibly(mol, positions)


REFUSED = {
    "cisplatin": ("[NH3]->[Pt](Cl)(Cl)<-[NH3]", r"atom 1 is Pt"),
    "dative to a metal": ("[C-]#[O+]->[Ni]", r"atom 2 is Ni"),
    "Grignard": ("C[Mg]Br", r"atom 1 is Mg"),
    "lithium with hydrogens": ("CC[Li]", r"atom 2 is Li"),
    "metal hydride": ("[NaH]", r"atom 0 is Na"),
    "metal beside a drug": ("CC(=O)O.C[Hg]C", r"atom \d+ is Hg"),
    "selenium": ("C[Se]C", r"atom 1 is Se"),
    "arsenic": ("C[As](C)C", r"atom 1 is As"),
    "beyond bismuth": ("F[U](F)(F)(F)(F)F", r"atom 1 is U"),
    "R-group": ("[*:1]CC", r"atom 0 is a dummy"),
    "labelled dummy": ("CC[3*]", r"atom 2 is a dummy"),
    "dummy alone": ("*", r"atom 0 is a dummy"),
}


@pytest.mark.parametrize(("smiles", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_model_has_not_seen_is_refused_by_name(smiles, words):
    mol = mol_from(smiles)
    with pytest.raises(ValueError, match=words) as caught:
        EmbedMoleculeDiffusion(mol, 2)
    assert "molecule 0 (" in str(caught.value)
    [result] = EmbedMoleculesDiffusion([mol], 2)
    assert result.failures == {FailureCause.UNSUPPORTED_ATOM: 2}
    assert accounted(result) and not result.ok


def test_isotopes_keep_their_labels():
    mol = mol_from("[2H]C([2H])([2H])[13C@H](F)[18OH]")
    labels = [a.GetIsotope() for a in mol.GetAtoms()]
    assert EmbedMoleculeDiffusion(mol, 2, **QUICK) == [0, 1]
    assert [a.GetIsotope() for a in mol.GetAtoms()] == labels
    bare = Chem.MolFromSmiles("[2H]C([2H])([2H])[13CH3]")  # labelled hydrogens alone are explicit
    assert EmbedMoleculeDiffusion(bare, 1, **QUICK) == [0]
    assert [a.GetIsotope() for a in bare.GetAtoms()] == [2, 0, 2, 2, 13]


def test_isotopes_make_a_centre():
    mol = mol_from("C[C@H]([2H])O")
    ids = EmbedMoleculeDiffusion(mol, 4, **QUICK)
    assert ids == [0, 1, 2, 3]
    assert all(specified_stereo(mol, k) == written_stereo(mol) for k in ids)


@pytest.mark.parametrize("smiles", [CYCLOSPORIN, PEPTIDE], ids=["cyclosporin", "20-mer peptide"])
def test_large_flexible_molecules_end_in_bounded_rounds(smiles):
    mol = mol_from(smiles)
    assert len(Chem.FindMolChiralCenters(mol)) >= 12
    [result] = EmbedMoleculesDiffusion([mol], 1, maxIterations=2, **QUICK)
    assert accounted(result) and 1 <= result.rounds <= 2
    for k in result.conf_ids:
        assert specified_stereo(mol, k) == written_stereo(mol)
        assert is_bonded_sensibly(mol, mol.GetConformer(k).GetPositions())


def test_a_chain_of_200_carbons_keeps_to_its_time():
    mol = mol_from("C" * 200)
    [result] = EmbedMoleculesDiffusion([mol], 2, timeout=0.05, steps=2)
    assert mol.GetNumConformers() == 0
    assert result.failures == {FailureCause.EXCEEDED_TIMEOUT: 2} and result.rounds == 1


def trans_cyclohexene() -> Chem.Mol:
    """Labelled by hand: RDKit's SMILES parser drops labels in rings this small."""
    mol = mol_from("C1=CCCCC1")
    bond = mol.GetBondWithIdx(0)
    bond.SetStereoAtoms(5, 2)
    bond.SetStereo(Chem.BondStereo.STEREOTRANS)
    return mol


IMPOSSIBLE = {
    "trans-cyclohexene": (trans_cyclohexene, {"DOUBLE_BOND_STEREO"}),
    "camphor with one bridgehead inverted": (
        lambda: mol_from("CC1(C)[C@H]2CC[C@@]1(C)C(=O)C2"),
        {"STEREO", "BOND_LENGTH", "BOND_ANGLE", "CLASH"},
    ),
}


@pytest.mark.parametrize(("make", "causes"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_impossible_stereo_fails_with_a_cause_and_ends(make, causes):
    mol = make()
    [result] = EmbedMoleculesDiffusion([mol], 2, **QUICK)
    assert result.conf_ids == [] and accounted(result)
    assert set(result.failures) <= causes
    assert result.rounds == 10 and sum(result.rejections.values()) == 20


def test_rdkit_reads_cyclohexene_from_the_smiles_of_its_trans_form():
    mol = mol_from("C1CC/C=C/C1")
    assert not any(b.GetStereo() for b in mol.GetBonds())
    assert EmbedMoleculeDiffusion(mol, 1, **QUICK) == [0]


def test_a_cage_without_a_solution_is_counted():
    """The length of the central bond of [1.1.1]propellane is not learnt; it must not pass."""
    mol = mol_from("C12(C3)CC13C2")
    [result] = EmbedMoleculesDiffusion([mol], 2, maxIterations=3, **QUICK)
    assert accounted(result) and result.rounds <= 3
    assert all(is_bonded_sensibly(mol, mol.GetConformer(k).GetPositions()) for k in result.conf_ids)


@pytest.mark.parametrize("smiles", ["CC=CF", "CC(F)O"], ids=["double bond", "centre"])
def test_unassigned_stereo_comes_out_both_ways_and_stays_unassigned(smiles):
    mol = mol_from(smiles)
    before = mol.ToBinary()
    ids = EmbedMoleculeDiffusion(mol, 20, **QUICK)
    found = set()
    for k in ids:
        copy = Chem.Mol(mol, confId=k)
        Chem.AssignStereochemistryFrom3D(copy, k, replaceExistingTags=True)
        found.add(Chem.MolToSmiles(Chem.RemoveHs(copy)))
    assert len(ids) == 20 and len(found) == 2
    assert unchanged(mol, before)
