"""Symmetries of the denoiser, and that neither padding nor the way to pair atoms shows."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import (
    batch_of,
    embedded,
    graph_of,
    largest_difference,
    mol_from,
    noisy,
    positions_of,
    tiny_network,
)
from network_cases import CENTERS, FLAT, TOLERANCE, levels_of
from rdkit import Chem

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.diffusion.denoiser import denoise, precondition
from rdgeodiff.geometry import center, random_rotations
from rdgeodiff.graph import MolBatch
from rdgeodiff.nn import neighbors
from rdgeodiff.nn.neighbors import DensePairs, EdgePairs

MIRROR = torch.tensor([1.0, 1.0, -1.0])
SULFOXIDE = "C[S@](=O)CC"  # a centre with a lone pair
SIGMAS = [0.01, 0.3, 3.0]


@pytest.fixture(scope="module", params=[0, 5], ids=["plain", "vectors"])
def network(request):
    return tiny_network(vectors=request.param)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_rotation_and_translation(network, sigma):
    batch = batch_of(CENTERS, FLAT, SULFOXIDE)
    x = noisy(batch, 1.0 + sigma)
    levels = levels_of(batch, sigma)
    turn = random_rotations(3, torch.Generator().manual_seed(1))
    shift = torch.tensor([[[3.0, -2.0, 5.0]]])
    plain = denoise(network, batch, x, levels)
    moved = denoise(network, batch, (x @ turn.mT + shift) * batch.mask.unsqueeze(-1), levels)
    assert largest_difference(moved, plain @ turn.mT) < TOLERANCE
    # The comparison means something only if the network does something.
    base, _, _ = precondition(batch, center(x, batch.mask), levels)
    assert largest_difference(plain, base) > 0.05 * min(sigma, 1.0)
    assert largest_difference(plain.sum(1), torch.zeros(3, 3)) < TOLERANCE


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("smiles", [CENTERS, SULFOXIDE])
def test_reflection_is_the_flip_of_every_parity(network, smiles, sigma):
    batch = batch_of(smiles)
    flipped = dataclasses.replace(batch, parities=-batch.parities)
    x, levels = noisy(batch, 1.0 + sigma), levels_of(batch, sigma)
    plain = denoise(network, batch, x, levels)
    assert (
        largest_difference(denoise(network, flipped, x * MIRROR, levels), plain * MIRROR)
        < TOLERANCE
    )
    without = denoise(network, batch, x * MIRROR, levels)
    assert largest_difference(without, plain * MIRROR) > 30 * TOLERANCE
    assert largest_difference(denoise(network, flipped, x, levels), plain) > 30 * TOLERANCE


def test_every_single_parity_matters(network):
    batch = batch_of(CENTERS)
    x, levels = noisy(batch), levels_of(batch, 0.5)
    plain = denoise(network, batch, x, levels)
    assert (batch.parities != 0).sum() == 2
    for which in range(2):
        parities = batch.parities.clone()
        parities[0, which] *= -1
        changed = denoise(network, dataclasses.replace(batch, parities=parities), x, levels)
        assert largest_difference(changed, plain) > 30 * TOLERANCE


def test_without_centres_reflection_is_a_symmetry(network):
    batch = batch_of(FLAT)
    x, levels = noisy(batch), levels_of(batch, 0.5)
    plain = denoise(network, batch, x, levels)
    assert (
        largest_difference(denoise(network, batch, x * MIRROR, levels), plain * MIRROR) < TOLERANCE
    )


def test_enantiomers_mirror_each_other(network):
    """The whole way from SMILES: the mirror image of R's prediction is S's."""
    right, left = batch_of("C[C@H](O)C(F)Cl"), batch_of("C[C@@H](O)C(F)Cl")
    x, levels = noisy(right), levels_of(right, 0.5)
    expected = denoise(network, right, x, levels) * MIRROR
    assert largest_difference(denoise(network, left, x * MIRROR, levels), expected) < TOLERANCE


@pytest.mark.parametrize("smiles", [CENTERS, SULFOXIDE, FLAT, "C/C=C/[C@H](F)Cl"])
def test_permutation(network, smiles):
    mol = mol_from(smiles)
    order = torch.randperm(mol.GetNumAtoms(), generator=torch.Generator().manual_seed(2))
    first = MolBatch.collate([featurize(mol)])
    second = MolBatch.collate([featurize(Chem.RenumberAtoms(mol, order.tolist()))])
    x, levels = noisy(first), levels_of(first, 0.4)
    plain = denoise(network, first, x, levels)
    assert (
        largest_difference(denoise(network, second, x[:, order], levels), plain[:, order])
        < TOLERANCE
    )


def test_order_of_a_centres_neighbours(network):
    batch = batch_of(CENTERS)
    x, levels = noisy(batch), levels_of(batch, 0.4)
    plain = denoise(network, batch, x, levels)
    even = dataclasses.replace(batch, centers=batch.centers[..., [0, 2, 3, 1, 4]])
    odd = dataclasses.replace(
        batch, centers=batch.centers[..., [0, 2, 1, 3, 4]], parities=-batch.parities
    )
    for other in (even, odd):
        assert largest_difference(denoise(network, other, x, levels), plain) < TOLERANCE


@pytest.mark.parametrize("edges", [False, True])
def test_batch_equals_singles(edges):
    network = tiny_network(dense_limit=1 if edges else 128, vectors=3)
    smiles = ("O", CENTERS, "[Cl-]", FLAT, "C#C", SULFOXIDE)
    batch = batch_of(*smiles)
    x = noisy(batch)
    levels = torch.tensor([0.002, 0.1, 1.0, 0.5, 5.0, 80.0])
    together = denoise(network, batch, x, levels)
    assert (together[~batch.mask] == 0).all()
    for k, text in enumerate(smiles):
        single = batch_of(text)
        n = single.mask.shape[1]
        alone = denoise(network, single, x[k : k + 1, :n], levels[k : k + 1])
        assert largest_difference(together[k, :n], alone[0]) < TOLERANCE


def test_padding_makes_no_difference(network):
    graph = graph_of(CENTERS)
    tight, loose = MolBatch.collate([graph]), MolBatch.collate([graph], pad_atoms=30, pad_centers=6)
    x = noisy(tight)
    padded = torch.zeros(1, 30, 3)
    padded[:, : graph.n_atoms] = x
    plain = denoise(network, tight, x, levels_of(tight, 0.3))
    wide = denoise(network, loose, padded, levels_of(tight, 0.3))
    assert largest_difference(wide[:, : graph.n_atoms], plain) < TOLERANCE
    padded[:, graph.n_atoms :] = 7.0  # what stands in the padding is not read
    assert torch.equal(denoise(network, loose, padded, levels_of(tight, 0.3)), wide)


CLUSTER = pytest.param(True, id="torch-cluster")


@pytest.mark.parametrize("use_cluster", [pytest.param(False, id="cdist"), CLUSTER])
def test_edge_list_equals_dense(use_cluster):
    if use_cluster:
        pytest.importorskip("torch_cluster")
    network = tiny_network(cutoff=5.0, vectors=3)
    long_chain = embedded("C" * 16)
    graphs = [featurize(long_chain), graph_of(CENTERS), graph_of("CC.CC"), graph_of("O")]
    batch = MolBatch.collate(graphs)
    x = noisy(batch, 2.0)
    x[0] = torch.from_numpy(positions_of(long_chain)[0]).float()
    # A fragment far away: its only edges are its own.
    x[2, [2, 3, 10, 11, 12, 13, 14, 15]] += 50.0
    x = center(x, batch.mask)
    levels = levels_of(batch, 0.3)

    def field_with(kind):
        def field(batch, x_in, base, scale, sigma):
            pairs = kind(batch, x_in)
            return network(batch, x_in, base, scale, sigma, pairs=pairs)

        return field

    dense = denoise(field_with(lambda b, y: DensePairs(b, 5.0)), batch, x, levels)
    edges = denoise(
        field_with(lambda b, y: EdgePairs(b, y, 5.0, use_cluster=use_cluster)), batch, x, levels
    )
    assert largest_difference(dense, edges) < TOLERANCE
    found = EdgePairs(batch, x, 5.0, use_cluster=use_cluster)
    every = sum(g.n_atoms * (g.n_atoms - 1) for g in graphs)
    assert 0 < len(found.i) < 0.8 * every


@pytest.mark.parametrize("use_cluster", [pytest.param(False, id="cdist"), CLUSTER])
def test_no_cap_on_neighbours(use_cluster):
    if use_cluster:
        pytest.importorskip("torch_cluster")
    batch = batch_of("C" * 20, FLAT)
    n = batch.n_atoms[0].item()
    assert n > 40
    x = noisy(batch, 0.7)
    pairs = EdgePairs(batch, x, 12.0, use_cluster=use_cluster)
    degree = torch.bincount(pairs.i, minlength=2 * n)
    assert (degree[:n] == n - 1).all()
    assert (degree[n : n + batch.n_atoms[1]] == batch.n_atoms[1] - 1).all()
    assert len(torch.unique(torch.stack([pairs.i, pairs.j]), dim=1).T) == len(pairs.i)
    assert (pairs.i != pairs.j).all()


def test_bonded_pairs_interact_beyond_the_cutoff():
    """At high noise bonded atoms lie far apart; their messages must not be lost."""
    batch = batch_of("CCO")
    x = noisy(batch, 1.0) * 100.0
    pairs = EdgePairs(batch, x, 5.0)
    distance = pairs.difference(x).norm(dim=-1)
    assert (distance > 5.0).any()
    assert (pairs.envelope(distance)[distance > 5.0] == 1.0).all()


def test_default_pairs_follow_the_size():
    network = tiny_network(dense_limit=10)
    small, large = batch_of("CC"), batch_of("CCCC")
    assert isinstance(network.pairs(small, noisy(small)), DensePairs)
    assert isinstance(network.pairs(large, noisy(large)), EdgePairs)


def test_missing_cluster_library_is_explained(monkeypatch):
    monkeypatch.setattr(neighbors, "_cluster_radius_graph", None)
    batch = batch_of("CC")
    assert len(EdgePairs(batch, noisy(batch), 5.0).i)  # cdist takes over
    with pytest.raises(ImportError, match="rdgeodiff"):
        EdgePairs(batch, noisy(batch), 5.0, use_cluster=True)
