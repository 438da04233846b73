"""Molecules as arrays: features, stereo tables, batches, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import embedded, graph_of, mol_from, positions_of
from rdkit import Chem

from rdgeodiff.chem.featurize import UnsupportedAtomError, featurize, supported_elements
from rdgeodiff.chem.stereo import (
    cis_trans_pairs,
    stereo_tables,
    wrong_centers,
    wrong_double_bonds,
)
from rdgeodiff.geometry import signed_volumes
from rdgeodiff.graph import (
    BOND_CODES,
    CIS,
    CONJUGATED,
    ELEMENTS,
    MAX_TOPOLOGICAL_DISTANCE,
    NODE_COLUMNS,
    NODE_DIM,
    PAIR_DIM,
    RING_BOND,
    RING_SIZES,
    TRANS,
    GraphError,
    MolBatch,
    MolGraph,
    is_local,
    node_features,
    pair_features,
)

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


def _pair(graph: MolGraph, i: int, j: int) -> tuple[int, int]:
    kind, place = graph.dense_pairs()[i, j].tolist()
    return kind, place


@pytest.mark.parametrize(
    "smiles",
    ["CC(=O)Oc1ccccc1C(=O)O", "C/C=C/[C@H](F)Cl", "C1C[C@H]2CC[C@@H]1C2", "[NH3+]CC([O-])=O.[Cl-]"],
)
def test_renumbering_atoms_renumbers_features(smiles):
    mol = mol_from(smiles)
    order = np.random.default_rng(1).permutation(mol.GetNumAtoms())
    first, second = featurize(mol), featurize(Chem.RenumberAtoms(mol, order.tolist()))
    assert np.array_equal(second.atomic_numbers, first.atomic_numbers[order])
    assert np.array_equal(second.node_codes, first.node_codes[order])
    assert np.array_equal(second.dense_pairs(), first.dense_pairs()[np.ix_(order, order)])
    # A centre may name its neighbours in another order, with the sign that goes with it.
    x = torch.randn(1, mol.GetNumAtoms(), 3, dtype=torch.float64)
    demands = []
    for graph, where in ((first, x), (second, x[:, order])):
        volumes = signed_volumes(where, torch.from_numpy(graph.centers.astype(np.int64))[None])
        signs = (volumes[0] * torch.from_numpy(graph.parities)).tolist()
        atoms = graph.centers[:, 0] if graph is first else order[graph.centers[:, 0]]
        demands.append(dict(zip(atoms.tolist(), signs, strict=True)))
    assert demands[0].keys() == demands[1].keys()
    for atom, volume in demands[0].items():
        assert volume == pytest.approx(demands[1][atom])


def test_node_features_are_multi_hot():
    graph = graph_of("C[N+](C)(C)CC(=O)[O-]")
    features = node_features(torch.from_numpy(graph.node_codes))
    assert features.shape == (graph.n_atoms, NODE_DIM)
    assert set(features.unique().tolist()) <= {0.0, 1.0}
    start = 0
    for column, width in enumerate(NODE_COLUMNS.values()):
        block = features[:, start : start + width]
        assert (block.sum(1) == 1).all()
        assert np.array_equal(block.argmax(1).numpy(), graph.node_codes[:, column])
        start += width
    assert (features[:, start:] == 0).all()  # no ring
    names = list(NODE_COLUMNS)
    codes = graph.node_codes
    assert [ELEMENTS[k] for k in codes[:, names.index("element")]] == list(graph.atomic_numbers)
    assert codes[1, names.index("charge")] == 3
    assert codes[7, names.index("charge")] == 1
    assert codes[0, names.index("hydrogens")] == 3
    assert codes[1, names.index("degree")] == 4


def test_pair_features_are_multi_hot():
    graph = graph_of("N#CC=Cc1ccccc1")
    dense = torch.from_numpy(graph.dense_pairs())
    features = pair_features(dense)
    n = graph.n_atoms
    assert features.shape == (n, n, PAIR_DIM)
    assert set(features.unique().tolist()) <= {0.0, 1.0}
    bonds = len(BOND_CODES)
    assert (features[..., :bonds].sum(-1) == 1).all()
    assert (features[..., bonds + 4 : bonds + 4 + MAX_TOPOLOGICAL_DISTANCE + 1].sum(-1) == 1).all()
    assert (features[..., -len(RING_SIZES) :].sum(-1) <= 1).all()
    assert features[0, 1, BOND_CODES["triple"]] == 1
    assert features[1, 2, BOND_CODES["single"]] == 1
    assert features[2, 3, BOND_CODES["double"]] == 1
    assert features[4, 5, BOND_CODES["aromatic"]] == 1
    assert features[0, 2, BOND_CODES["none"]] == 1
    kind, _ = _pair(graph, 4, 5)
    assert kind & CONJUGATED
    assert kind & RING_BOND
    kind, _ = _pair(graph, 3, 4)
    assert kind & CONJUGATED
    assert not kind & RING_BOND


def test_topological_distances_and_locality():
    mol = mol_from("CCCCCCCCCCCCCC(C)O.CC")
    graph = featurize(mol)
    expected = np.minimum(Chem.GetDistanceMatrix(mol), MAX_TOPOLOGICAL_DISTANCE)
    found = graph.dense_pairs()[..., 1] & 15
    assert np.array_equal(found, expected)
    last = mol.GetNumAtoms() - 1
    assert found[0, last] == MAX_TOPOLOGICAL_DISTANCE  # another fragment
    local = is_local(torch.from_numpy(graph.dense_pairs())).numpy()
    assert np.array_equal(local, (expected >= 1) & (expected <= 3))


@pytest.mark.parametrize("size", [3, 4, 5, 6, 7, 8, 9, 14])
def test_ring_sizes(size):
    graph = graph_of("C1" + "C" * (size - 2) + "C1")
    code = RING_SIZES.index(min(size, 8))
    assert (graph.node_codes[:size, -1] == 1 << code).all()
    assert (graph.node_codes[size:, -1] == 0).all()
    shared = graph.dense_pairs()[..., 1] >> 4
    ring = shared[:size, :size][~np.eye(size, dtype=bool)]
    assert (ring == code + 1).all()
    assert (shared[:, size:] == 0).all()
    features = node_features(torch.from_numpy(graph.node_codes))
    assert (features[:size, -len(RING_SIZES) :].argmax(1) == code).all()


def test_smallest_shared_ring_and_spiro():
    indane = graph_of("C1CC2=CC=CC=C2C1")  # atoms 2 and 7 fuse a five- and a six-membered ring
    assert _pair(indane, 2, 7)[1] >> 4 == RING_SIZES.index(5) + 1
    assert _pair(indane, 2, 4)[1] >> 4 == RING_SIZES.index(6) + 1
    assert _pair(indane, 0, 4)[1] >> 4 == 0
    assert indane.node_codes[2, -1] == 1 << RING_SIZES.index(5) | 1 << RING_SIZES.index(6)
    spiro = graph_of("C1CC12CCC2")
    assert spiro.node_codes[2, -1] == 1 << RING_SIZES.index(3) | 1 << RING_SIZES.index(4)
    assert _pair(spiro, 0, 3)[1] >> 4 == 0


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
        kind, place = _pair(graph, 0, j)
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


@pytest.mark.parametrize(
    ("smiles", "symbol", "index"),
    [("C[Pt]", "Pt", 1), ("CC*", r"\*", 2), ("[Na+].[Cl-]", "Na", 0), ("CC[Se]C", "Se", 2)],
)
def test_unsupported_elements_are_named(smiles, symbol, index):
    with pytest.raises(UnsupportedAtomError, match=rf"atom {index} \({symbol}\)"):
        featurize(Chem.AddHs(Chem.MolFromSmiles(smiles)))
    assert symbol not in supported_elements()


def test_supported_elements_are_featurised():
    assert "C" in supported_elements()
    for code, number in enumerate(ELEMENTS):
        if number:
            mol = Chem.MolFromSmiles(f"[#{number}]")
            assert featurize(mol).node_codes[0, 0] == code


def test_extreme_values_are_clipped_into_the_table():
    for smiles in ("[C-4]", "[N+4]", "FS(F)(F)(F)(F)F", "[CH2]", "FI(F)(F)(F)F"):
        codes = featurize(Chem.AddHs(Chem.MolFromSmiles(smiles))).node_codes
        assert (codes[:, :-1] < list(NODE_COLUMNS.values())).all()


CENTER = np.array([[1, 0, 2, 3, 4]], np.int16)


@pytest.mark.parametrize(
    "change",
    [
        {"atomic_numbers": np.zeros(0, np.uint8)},
        {"node_codes": np.zeros((3, 9), np.uint8)},
        {"node_codes": np.zeros((7, 4), np.uint8)},
        {"pair_codes": np.zeros((5, 2), np.uint8)},
        {"pair_codes": np.zeros((21, 3), np.uint8)},
        {"parities": np.zeros(2, np.int8)},
        {"centers": CENTER[:, :4]},
        {"centers": CENTER[:0]},
        {"centers": CENTER + 1},  # atom 5 of 0..4
        {"centers": CENTER - 1},
    ],
)
def test_graphs_that_contradict_themselves_are_refused(change):
    graph = graph_of("[C@H](F)(Cl)Br")
    good = {f.name: getattr(graph, f.name) for f in dataclasses.fields(graph)}
    good |= {"centers": CENTER}
    MolGraph(**good)
    with pytest.raises(GraphError):
        MolGraph(**(good | change))


def test_single_atom_graph():
    graph = featurize(Chem.MolFromSmiles("[Cl-]"))
    assert graph.n_atoms == 1
    assert graph.dense_pairs().shape == (1, 1, 2)
    assert MolBatch.collate([graph]).mask.tolist() == [[True]]


def test_collate_pads_and_keeps():
    graphs = [graph_of(s) for s in ("C", "C[C@H](F)Cl", "O")]
    batch = MolBatch.collate(graphs, pad_atoms=12, pad_centers=3)
    assert len(batch) == 3
    assert batch.n_atoms.tolist() == [5, 8, 3]
    assert batch.mask.sum(1).tolist() == [5, 8, 3]
    for k, graph in enumerate(graphs):
        n = graph.n_atoms
        assert np.array_equal(batch.node_codes[k, :n].numpy(), graph.node_codes)
        assert np.array_equal(batch.pair_codes[k, :n, :n].numpy(), graph.dense_pairs())
        assert not batch.node_codes[k, n:].any()
        assert not batch.pair_codes[k, n:].any()
        assert not batch.pair_codes[k, :, n:].any()
    assert (batch.parities != 0).sum(1).tolist() == [0, 1, 0]
    assert np.array_equal(batch.centers[1, 0].numpy(), graphs[1].centers[0])
    moved = batch.to("cpu")
    assert torch.equal(moved.pair_codes, batch.pair_codes)


@pytest.mark.parametrize("sizes", [{"pad_atoms": 7}, {"pad_centers": 0}])
def test_collate_refuses_what_does_not_fit(sizes):
    with pytest.raises(GraphError, match="do not fit"):
        MolBatch.collate([graph_of("C[C@H](F)Cl"), graph_of("C")], **sizes)
