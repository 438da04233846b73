"""Molecules as arrays: features of atoms and pairs, batches, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import graph_of, mol_from, pair_of
from rdkit import Chem

from rdgeodiff.chem.featurize import UnsupportedAtomError, featurize, supported_elements
from rdgeodiff.geometry import signed_volumes
from rdgeodiff.graph import (
    BOND_CODES,
    CONJUGATED,
    ELEMENTS,
    MAX_TOPOLOGICAL_DISTANCE,
    NODE_COLUMNS,
    NODE_DIM,
    PAIR_DIM,
    RING_BOND,
    RING_SIZES,
    GraphError,
    MolBatch,
    MolGraph,
    is_local,
    node_features,
    pair_features,
)


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
    kind, _ = pair_of(graph, 4, 5)
    assert kind & CONJUGATED
    assert kind & RING_BOND
    kind, _ = pair_of(graph, 3, 4)
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
    assert pair_of(indane, 2, 7)[1] >> 4 == RING_SIZES.index(5) + 1
    assert pair_of(indane, 2, 4)[1] >> 4 == RING_SIZES.index(6) + 1
    assert pair_of(indane, 0, 4)[1] >> 4 == 0
    assert indane.node_codes[2, -1] == 1 << RING_SIZES.index(5) | 1 << RING_SIZES.index(6)
    spiro = graph_of("C1CC12CCC2")
    assert spiro.node_codes[2, -1] == 1 << RING_SIZES.index(3) | 1 << RING_SIZES.index(4)
    assert pair_of(spiro, 0, 3)[1] >> 4 == 0


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
