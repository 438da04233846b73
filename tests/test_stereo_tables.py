"""Tables of centres and double bonds agree with geometry, however the molecule is written."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import embedded, graph_of, mol_from, pair_of, positions_of
from rdkit import Chem

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.chem.stereo import cis_trans_pairs, stereo_tables, wrong_centers, wrong_double_bonds
from rdgeodiff.graph import CIS, TRANS

# Every kind of centre: carbon in chains and rings, quaternary, S, P, N, Si; several per molecule.
CHIRAL = [
    "C[C@H](N)C(=O)O",
    "C[C@@H](N)C(=O)O",
    "F[C@](Cl)(Br)I",
    "F[C@@](Cl)(Br)C",
    "[C@H](F)(Cl)Br",
    "[C@@H](F)(Cl)Br",
    "Br[C@H](F)Cl",
    "CC[C@](C)(O)F",
    "C[C@H]1CCCO1",
    "C[C@@H]1CC[C@H](C)CC1",
    "O[C@H]1CC[C@@H](C)CC1",
    "C1C[C@H]2CC[C@@H]1C2",
    "C1C[C@@]2(CCCCO2)OC1",
    "N1C[C@H]1C",
    "C[C@H]1O[C@@H]1C",
    "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "C[C@]12CC[C@H]3[C@@H](CCc4cc(O)ccc43)[C@@H]1CC[C@@H]2O",
    "CC(C)[C@H](N)C(=O)N[C@@H](C)C(=O)O",
    "C[S@](=O)CC",
    "C[S@@](=O)CC",
    "O=[S@](C)c1ccccc1",
    "[O-][S@+](C)c1ccccc1",
    "C[S@+](CC)CCC",
    "C[S@](=N)(=O)CC",
    "C[P@](CC)c1ccccc1",
    "C[P@@](CC)c1ccccc1",
    "C[P@](=O)(OC)F",
    "CC[P@+](C)(CCC)c1ccccc1",
    "C[N@@+](CC)(CCC)c1ccccc1",
    "C[N@]1C[C@@H]1C",
    "C[N@@]1C[C@@H]1C",
    "C[Si@](F)(CC)Cl",
    "C1C[N@@]2CC[C@@H]1[C@H](O)C2",
    "C[C@H](O)[C@@H](C)O",
    "C[C@@](O)([H])C#N",
    "CC1=C[C@H](O)CC1",
    "N[C@@H](CS)C(=O)O",
    "C[C@H](c1ccccc1)[C@@H](F)C#N",
]
EXPLICIT_HYDROGEN = [
    ("[H][C@](F)(Cl)Br", "[C@H](F)(Cl)Br"),
    ("F[C@]([H])(Cl)Br", "F[C@H](Cl)Br"),
    ("F[C@](Cl)([H])Br", "F[C@@H](Cl)Br"),
    ("F[C@](Cl)(Br)[H]", "F[C@H](Cl)Br"),
    ("[H][C@@]1(C)CCCO1", "[H][C@@]1(C)CCCO1"),
]


@pytest.mark.parametrize(
    ("smiles", "methyls", "methyl_and_hydrogen"),
    [("C/C=C/C", TRANS, CIS), ("C/C=C\\C", CIS, TRANS)],
)
def test_cis_and_trans_pairs_of_butene(smiles, methyls, methyl_and_hydrogen):
    mol = mol_from(smiles)
    neighbors = mol.GetAtomWithIdx(2).GetNeighbors()
    hydrogen = next(n.GetIdx() for n in neighbors if n.GetAtomicNum() == 1)
    graph = featurize(mol)
    for j, flag in ((3, methyls), (hydrogen, methyl_and_hydrogen)):
        kind, place = pair_of(graph, 0, j)
        assert kind & (CIS | TRANS) == flag
        assert place & 15 == 3
    assert ((graph.pair_codes[:, 0] & (CIS | TRANS)) > 0).sum() == 4


DOUBLE_BONDS = [
    "C/C=C/C",
    "C/C=C\\C",
    "C/C=C(/F)Cl",
    "C/C(F)=C(\\Cl)Br",
    "F/C(Cl)=C(/C)CC",
    "C/C=N/O",
    "C/C(CC)=N\\O",
    "C/N=N/C",
    "CC/C=C\\C=C\\C",
    "O=C(O)/C=C/c1ccccc1",
    "C1CCC/C=C\\CCCC1",
    "C/C=C/[C@H](F)Cl",
]


@pytest.mark.parametrize("smiles", DOUBLE_BONDS)
def test_double_bond_tables_agree_with_geometry(smiles):
    mol = embedded(smiles, 2)
    tables = stereo_tables(mol)
    assert len(tables.double_bonds) >= 1
    positions = positions_of(mol)
    assert not wrong_double_bonds(positions, tables).any()
    opposite = dataclasses.replace(tables, trans=~tables.trans)
    assert wrong_double_bonds(positions, opposite).all()
    for i, j, k, m in tables.double_bonds.tolist():
        assert mol.GetBondBetweenAtoms(i, j) is not None
        assert mol.GetBondBetweenAtoms(j, k).GetBondType() == Chem.BondType.DOUBLE
        assert mol.GetBondBetweenAtoms(k, m) is not None
    # All pairs across the bond, not only the two that carry the label.
    cis, trans = cis_trans_pairs(mol, tables)
    for pairs, sign in ((cis, 1), (trans, -1)):
        for i, j in pairs:
            begin, end = next(
                (b, e)
                for _, b, e, _ in tables.double_bonds.tolist()
                if mol.GetBondBetweenAtoms(i, b) is not None
                and mol.GetBondBetweenAtoms(e, j) is not None
            )
            x = positions[0]
            axis = x[end] - x[begin]
            sides = np.cross(x[i] - x[begin], axis) @ np.cross(x[j] - x[end], axis)
            assert np.sign(sides) == sign


@pytest.mark.parametrize("smiles", ["C/C=C/C", "C/C=C\\C", "C/C=C(/F)Cl", "C/C=N/O"])
def test_both_notations_of_double_bonds_agree(smiles):
    """E/Z labels and explicit cis/trans labels, the latter with every choice of stereo atoms."""
    mol = mol_from(smiles)
    reference = featurize(mol)
    bond = next(b for b in mol.GetBonds() if b.GetStereo() != Chem.BondStereo.STEREONONE)
    assert bond.GetStereo() in (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOZ)
    cis, trans = cis_trans_pairs(mol, stereo_tables(mol))
    for pairs, label in ((cis, Chem.BondStereo.STEREOCIS), (trans, Chem.BondStereo.STEREOTRANS)):
        for i, j in pairs:
            other = Chem.Mol(mol)
            changed = other.GetBondWithIdx(bond.GetIdx())
            changed.SetStereo(Chem.BondStereo.STEREONONE)
            begin = changed.GetBeginAtomIdx()
            first = i if other.GetBondBetweenAtoms(i, begin) else j
            changed.SetStereoAtoms(first, j if first == i else i)
            changed.SetStereo(label)
            assert np.array_equal(featurize(other).pair_codes, reference.pair_codes)


def test_opposite_double_bonds_have_opposite_features():
    e, z = graph_of("C/C=C/C"), graph_of("C/C=C\\C")
    assert not np.array_equal(e.pair_codes, z.pair_codes)
    free = graph_of("CC=CC")
    assert not (free.pair_codes[:, 0] & (CIS | TRANS)).any()
    mol = mol_from("CC=CC")
    mol.GetBondWithIdx(1).SetStereo(Chem.BondStereo.STEREOANY)
    assert np.array_equal(featurize(mol).pair_codes, free.pair_codes)


def _check_hand(mol: Chem.Mol) -> None:
    tables = stereo_tables(mol)
    assert len(tables.centers) >= 1
    positions = positions_of(mol)
    assert not wrong_centers(positions, tables).any()
    assert wrong_centers(positions * [1, 1, -1], tables).all()


@pytest.mark.parametrize("smiles", CHIRAL)
def test_parity_tables_agree_with_etkdg(smiles):
    mol = embedded(smiles)
    tagged = [
        a.GetIdx() for a in mol.GetAtoms() if a.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED
    ]
    assert tagged
    assert stereo_tables(mol).centers[:, 0].tolist() == tagged
    _check_hand(mol)


@pytest.mark.parametrize("smiles", CHIRAL[:10] + ["C[S@](=O)CC", "C[P@](CC)c1ccccc1"])
def test_parity_tables_survive_renumbering(smiles):
    mol = embedded(smiles)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(mol.GetNumAtoms()).tolist()
        _check_hand(Chem.RenumberAtoms(mol, order))


@pytest.mark.parametrize(("explicit", "implicit"), EXPLICIT_HYDROGEN)
def test_order_of_explicit_hydrogens(explicit, implicit):
    keep = Chem.SmilesParserParams()
    keep.removeHs = False
    kept = Chem.AddHs(Chem.MolFromSmiles(explicit, keep))
    _check_hand(embedded(kept))
    _check_hand(embedded(explicit))
    # The two notations are the same molecule, and so their tables demand the same.
    plain = Chem.MolToSmiles(Chem.MolFromSmiles(implicit))
    assert Chem.MolToSmiles(Chem.RemoveHs(kept)) == plain


def test_heavy_atoms_alone_have_tables_too():
    mol = Chem.RemoveHs(embedded("C[C@H](N)C(=O)O"))
    tables = stereo_tables(mol)
    assert tables.centers[0, 4] == tables.centers[0, 0]  # three neighbours, then the centre
    assert not wrong_centers(positions_of(mol), tables).any()


def test_wrong_centers_counts_undecided_geometry_as_wrong():
    mol = mol_from("F[C@](Cl)(Br)I")
    tables = stereo_tables(mol)
    flat = np.random.default_rng(0).normal(size=(2, mol.GetNumAtoms(), 3))
    flat[0, :, 2] = 0.0
    flat[1, 0] = np.nan
    assert wrong_centers(flat, tables).all()
