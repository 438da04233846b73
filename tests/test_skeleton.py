"""Molecules without hydrogens: their graph, their hands, and hydrogens back in their places."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import embedded, graph_of, mol_from, positions_of
from rdkit import Chem
from rdkit.Chem import AllChem
from stereo_molecules import STEREO_SMILES

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.chem.stereo import stereo_tables
from rdgeodiff.chem.verdict import Judge
from rdgeodiff.geometry import signed_volumes
from rdgeodiff.graph import MolBatch
from rdgeodiff.nn.vector_terms import unit_volumes
from rdgeodiff.skeleton import skeleton
from rdgeodiff.training.skeletons import strip

SMILES = [
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "C#CCN(C)C(=O)/C=C/c1ccc[nH]1",
    "NC(=O)C=NO",
    "C[SiH2]CC[PH2]",
    "OB(O)c1ccccc1S",
    "C[NH2+]CC([O-])=O",
]


def relaxed(smiles: str) -> Chem.Mol:
    mol = embedded(smiles, 3)
    AllChem.UFFOptimizeMoleculeConfs(mol, maxIters=500)
    return mol


@pytest.mark.parametrize("smiles", SMILES)
def test_heavy_atoms_keep_their_codes(smiles):
    mol = mol_from(smiles)
    graph, own = featurize(mol), skeleton(featurize(mol))
    heavy = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
    assert own.atoms.tolist() == heavy
    assert sorted([*own.atoms, *own.hydrogens]) == list(range(mol.GetNumAtoms()))
    assert np.array_equal(own.graph.node_codes, graph.node_codes[heavy])
    assert np.array_equal(own.graph.dense_pairs(), graph.dense_pairs()[np.ix_(heavy, heavy)])
    for hydrogen, parent in zip(own.hydrogens, own.atoms[own.parents], strict=True):
        assert mol.GetBondBetweenAtoms(int(hydrogen), int(parent)) is not None


@pytest.mark.parametrize("smiles", ["C", "CO", "CCO", "FC(F)(F)C(F)(F)F", "[H][H]", "O.[Cl-]"])
def test_what_has_no_skeleton(smiles):
    """Too few heavy atoms, no hydrogens, or some without a heavy atom to sit on."""
    assert skeleton(graph_of(smiles)) is None


def test_bridging_and_lonely_hydrogens_stay():
    bridged = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    graph = featurize(bridged)
    dense = graph.dense_pairs()
    dense[4, 1] = dense[1, 4] = dense[4, 0]  # a second bond of the first hydrogen
    upper = np.triu_indices(graph.n_atoms, 1)
    twice = type(graph)(graph.atomic_numbers, graph.node_codes, dense[upper])
    assert skeleton(graph) is not None and skeleton(twice) is None
    assert skeleton(graph_of("CCCC.[H+]")) is None
    assert skeleton(graph_of("CCCC.O")) is None


@pytest.mark.parametrize("smiles", ["C[C@H](O)[C@@H](F)Cl", "C[C@@](F)(O)CC", "C[S@](=O)CC"])
def test_specified_centres_keep_their_hand_in_any_order_of_atoms(smiles):
    mol = embedded(smiles)
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(12):
        order = rng.permutation(mol.GetNumAtoms()).tolist()
        shuffled = Chem.RenumberAtoms(mol, order)
        own = skeleton(featurize(shuffled))
        assert len(own.graph.parities) == len(featurize(shuffled).parities)
        x = torch.from_numpy(positions_of(shuffled)[:, own.atoms])
        batch = MolBatch.collate([own.graph])
        volumes, _ = unit_volumes(x, batch.centers)
        assert (volumes * batch.parities > 0.05).all()
        assert (signed_volumes(x, batch.centers) * batch.parities > 0).all()
        seen += len(own.graph.parities)
    assert seen >= 12


def test_a_centre_with_two_hydrogens_of_different_mass_is_left_out():
    graph = graph_of("[2H][C@H](O)CC")
    assert len(graph.parities) == 1
    assert len(skeleton(graph).graph.parities) == 0


@pytest.mark.parametrize("smiles", SMILES)
def test_hydrogens_come_back_where_they_belong(smiles):
    """Bonds and angles of each are near those of a force field; nothing lies on anything else."""
    mol = relaxed(smiles)
    own = skeleton(featurize(mol))
    table = Chem.GetAdjacencyMatrix(mol).astype(bool)
    for positions in positions_of(mol):
        for seed in range(3):
            placed = own.with_hydrogens(positions[own.atoms], np.random.default_rng(seed))
            assert np.array_equal(placed[own.atoms], positions[own.atoms])
            for hydrogen, parent in zip(own.hydrogens, own.atoms[own.parents], strict=True):
                bond = placed[hydrogen] - placed[parent]
                length = np.linalg.norm(positions[hydrogen] - positions[parent])
                assert np.linalg.norm(bond) == pytest.approx(length, abs=0.1)
                for other in np.flatnonzero(table[parent]):
                    if other != hydrogen:
                        found = angle(placed[hydrogen], placed[parent], placed[other])
                        wanted = angle(positions[hydrogen], positions[parent], positions[other])
                        assert found == pytest.approx(wanted, abs=20)


def angle(a, b, c) -> float:
    u, v = a - b, c - b
    return float(np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))))


@pytest.mark.parametrize("smiles", ["Cc1ccccc1C(C)=O", "CC1CCC(C)CC1", "C=CC1CCCC1"])
def test_hydrogens_that_cannot_turn_are_found_within_a_fifth_of_an_angstrom(smiles):
    mol = relaxed(smiles)
    own = skeleton(featurize(mol))
    ends = {
        int(a) for a in own.parents if len([k for k in own.graph.dense_pairs()[a, :, 0] if k]) == 1
    }
    positions = positions_of(mol)[0]
    placed = own.with_hydrogens(positions[own.atoms], np.random.default_rng(0))
    for parent in set(own.parents.tolist()) - ends:
        mine = own.hydrogens[own.parents == parent]
        apart = min(
            np.linalg.norm(placed[mine] - positions[list(other)], axis=1).max()
            for other in itertools.permutations(mine)
        )
        assert apart < 0.2


def test_what_turns_freely_is_turned_at_random_and_by_its_seed_alone():
    own = skeleton(featurize(embedded("CCCC")))
    positions = np.array([[0.0, 0, 0], [1.5, 0, 0], [2.0, 1.4, 0], [3.5, 1.4, 0]])
    first, again, other = (
        own.with_hydrogens(positions, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    methyl = own.hydrogens[own.parents == 0]
    assert np.abs(first[methyl] - other[methyl]).max() > 0.1
    sides = np.linalg.norm(first[methyl][:, None] - first[methyl], axis=-1)[np.triu_indices(3, 1)]
    assert sides == pytest.approx([1.78] * 3, abs=0.02)


@pytest.mark.parametrize("broken", ["one point", "a line", "a plane"])
def test_skeletons_that_no_molecule_has_still_get_finite_hydrogens(broken):
    own = skeleton(graph_of("CC(C)(N)c1ccc(O)cc1"))
    positions = np.random.default_rng(0).standard_normal((len(own.atoms), 3))
    positions[:, {"one point": [0, 1, 2], "a line": [1, 2], "a plane": [2]}[broken]] = 0.0
    placed = own.with_hydrogens(positions, np.random.default_rng(0))
    assert np.isfinite(placed).all()
    bonds = placed[own.hydrogens] - placed[own.atoms[own.parents]]
    assert np.linalg.norm(bonds, axis=1) == pytest.approx(own.lengths, abs=1e-6)


def test_placed_hydrogens_leave_stereo_as_the_skeleton_has_it():
    """The judge finds nothing wrong with hands where only hydrogens are new."""
    for smiles in ("C[C@H](O)[C@@H](F)CC", "CC/C=C/[C@@H](N)C(=O)O", "C[C@@H]1CCC[C@H](O)C1"):
        mol = relaxed(smiles)
        own = skeleton(featurize(mol))
        placed = own.with_hydrogens(positions_of(mol)[0][own.atoms], np.random.default_rng(0))
        assert Judge(mol, stereo_tables(mol)).judge(placed).stereo_ok


def test_a_batch_is_stripped_as_molecules_are_one_by_one():
    smiles = [*SMILES, *STEREO_SMILES[:40], "CCO", "[H][H]", "FC(F)(F)C(F)(F)F"]
    graphs = [graph_of(s) for s in smiles]
    batch = strip(MolBatch.collate(graphs))
    x = torch.randn(len(graphs), batch.atoms.shape[1] + 60, 3)
    assert torch.isfinite(batch.of(x)).all()
    for row, graph in enumerate(graphs):
        own = skeleton(graph)
        # What has no skeleton stays as it is.
        atoms = np.arange(graph.n_atoms) if own is None else own.atoms
        alone = MolBatch.collate([graph if own is None else own.graph])
        n, table = len(atoms), batch.graphs
        assert batch.atoms[row, :n].tolist() == atoms.tolist()
        assert torch.equal(table.mask[row], torch.arange(table.mask.shape[1]) < n)
        assert torch.equal(table.node_codes[row, :n], alone.node_codes[0])
        assert torch.equal(table.pair_codes[row, :n, :n], alone.pair_codes[0])
        kept = table.parities[row] != 0
        assert torch.equal(table.centers[row][kept], alone.centers[0])
        assert torch.equal(table.parities[row][kept], alone.parities[0])
        taken = batch.of(x)[row, :n]
        wanted = x[row, atoms] - x[row, atoms].mean(0)
        assert torch.allclose(taken, wanted, atol=1e-5)
