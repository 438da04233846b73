"""Edges of the original network: within a molecule, as in the public code, and none of padding."""

from __future__ import annotations

import pytest
import torch
from helpers import graph_of
from original_fixtures import CAPS, MOLECULES, arrays, assert_close, graphs_of, tensor

from rdgeodiff.graph import GraphError, MolBatch
from rdgeodiff.nn.atom_graphs import AtomGraphs, radius_edges

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", MOLECULES)
def test_local_and_radius_edges(name):
    data = arrays(f"forward_{name}")
    graphs = graphs_of(data)
    assert_close(graphs.local_index, tensor(data, "ext_edge_index"))
    assert_close(graphs.local_type, tensor(data, "ext_edge_type"))
    for geometry in "AB":
        x = tensor(data, f"pos_{geometry}")
        for cap, limit in CAPS.items():
            ours = torch.stack(radius_edges(x, graphs.molecule, 10.0, limit))
            assert_close(ours, tensor(data, f"{geometry}.{cap}.radius_edge_index"))


def test_cap_keeps_the_first_33_in_range_itself_included():
    x = torch.linspace(0.0, 9.0, 50).unsqueeze(-1) * torch.tensor([1.0, 0.0, 0.0])
    source, target = radius_edges(x, torch.zeros(50, dtype=torch.int64), 10.0, 32)
    for atom in range(50):
        expected = [k for k in range(33) if k != atom]
        assert source[target == atom].tolist() == expected
    # 32 neighbours for the early atoms, 33 for the late ones.
    assert torch.bincount(target).unique().tolist() == [32, 33]


def test_molecules_of_a_batch_do_not_see_each_other():
    data = arrays("loss_batch7_hard")
    graphs = graphs_of(data)
    for limit in CAPS.values():
        source, target = radius_edges(
            torch.zeros(len(graphs.molecule), 3), graphs.molecule, 1, limit
        )
        assert torch.equal(graphs.molecule[source], graphs.molecule[target])
    assert torch.equal(*graphs.molecule[graphs.local_index])


def test_featurised_molecules_give_the_same_graphs():
    names = ("aspirin", "salt", "alkyne_ammonium")
    ours = AtomGraphs.from_graphs([graph_of(str(arrays(f"forward_{n}")["smiles"])) for n in names])
    start = 0
    for row, name in enumerate(names):
        expected = graphs_of(arrays(f"forward_{name}"))
        atoms = ours.molecule == row
        edges = ours.molecule[ours.local_index[0]] == row
        assert torch.equal(ours.atom_type[atoms], expected.atom_type)
        assert torch.equal(ours.local_index[:, edges] - start, expected.local_index)
        assert torch.equal(ours.local_type[edges], expected.local_type)
        start += len(expected.atom_type)


def test_dative_bonds_have_their_number():
    graphs = AtomGraphs.from_graphs([graph_of("C"), graph_of("[NH3]->B")])
    nitrogen, boron = 5, 6
    assert graphs.atom_type[[nitrogen, boron]].tolist() == [7, 5]
    between = (graphs.local_index == torch.tensor([[nitrogen], [boron]])).all(0)
    assert graphs.local_type[between].tolist() == [17]


def test_order_of_edges_must_be_known():
    ethane = [graph_of("CC")]
    assert set(AtomGraphs.from_graphs(ethane, 1).local_type.tolist()) == {1}
    assert set(AtomGraphs.from_graphs(ethane, 2).local_type.tolist()) == {1, 23}
    for order in (0, 11):
        with pytest.raises(GraphError, match="1 to 10 bonds"):
            AtomGraphs.from_graphs(ethane, order)


def test_padding_leaves_no_trace():
    mols = [graph_of(s) for s in ("CCO", "C#N", "c1ccccc1")]
    plain = AtomGraphs.from_batch(MolBatch.collate(mols))
    padded = AtomGraphs.from_batch(MolBatch.collate(mols, pad_atoms=20))
    for name in ("atom_type", "molecule", "local_index", "local_type"):
        assert torch.equal(getattr(plain, name), getattr(padded, name))


@pytest.mark.parametrize(
    ("molecule", "bonds", "types", "message"),
    [
        ([0, 0], [[0], [1]], [1], "each direction"),
        ([0, 0], [[0, 1, 0, 1], [1, 0, 1, 0]], [1] * 4, "each direction"),
        ([0, 1], [[0, 1], [1, 0]], [1, 1], "two molecules"),
        ([1, 0], [[0, 1], [1, 0]], [1, 1], "in order"),
        ([0, 0], [[0, 2], [2, 0]], [1, 1], "outside"),
        ([0, 0], [[0, 1], [1, 0]], [1, 23], "bond types"),
        ([0, 0], [[0, 1], [1, 0]], [1], "do not fit"),
    ],
)
def test_contradictory_bonds_are_refused(molecule, bonds, types, message):
    values = (torch.tensor(v) for v in ([6, 6], molecule, bonds, types))
    with pytest.raises(GraphError, match=message):
        AtomGraphs.from_bonds(*values)
