"""Symmetries of the denoiser, and that neither padding nor the way to pair atoms shows."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
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
from rdkit import Chem
from torch.utils._python_dispatch import TorchDispatchMode

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.diffusion.denoiser import bind, denoise, precondition, sigma_data
from rdgeodiff.geometry import center, random_rotations
from rdgeodiff.graph import MolBatch
from rdgeodiff.nn import neighbors
from rdgeodiff.nn.graph_field import RadialBasis
from rdgeodiff.nn.neighbors import DensePairs, EdgePairs

MIRROR = torch.tensor([1.0, 1.0, -1.0])
CENTERS = "C[C@H](O)[C@@H](F)C(=O)N"  # two specified centres
SULFOXIDE = "C[S@](=O)CC"  # a centre with a lone pair
FLAT = "CC(=O)Oc1ccccc1C(=O)O"  # no centre
TOLERANCE = 3e-5  # Å; float32
SIGMAS = [0.01, 0.3, 3.0]


def _levels(batch: MolBatch, sigma: float) -> torch.Tensor:
    return torch.full((len(batch),), sigma)


@pytest.fixture(scope="module", params=[0, 5], ids=["plain", "vectors"])
def network(request):
    return tiny_network(vectors=request.param)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_rotation_and_translation(network, sigma):
    batch = batch_of(CENTERS, FLAT, SULFOXIDE)
    x = noisy(batch, 1.0 + sigma)
    levels = _levels(batch, sigma)
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
    x, levels = noisy(batch, 1.0 + sigma), _levels(batch, sigma)
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
    x, levels = noisy(batch), _levels(batch, 0.5)
    plain = denoise(network, batch, x, levels)
    assert (batch.parities != 0).sum() == 2
    for which in range(2):
        parities = batch.parities.clone()
        parities[0, which] *= -1
        changed = denoise(network, dataclasses.replace(batch, parities=parities), x, levels)
        assert largest_difference(changed, plain) > 30 * TOLERANCE


def test_without_centres_reflection_is_a_symmetry(network):
    batch = batch_of(FLAT)
    x, levels = noisy(batch), _levels(batch, 0.5)
    plain = denoise(network, batch, x, levels)
    assert (
        largest_difference(denoise(network, batch, x * MIRROR, levels), plain * MIRROR) < TOLERANCE
    )


def test_enantiomers_mirror_each_other(network):
    """The whole way from SMILES: the mirror image of R's prediction is S's."""
    right, left = batch_of("C[C@H](O)C(F)Cl"), batch_of("C[C@@H](O)C(F)Cl")
    x, levels = noisy(right), _levels(right, 0.5)
    expected = denoise(network, right, x, levels) * MIRROR
    assert largest_difference(denoise(network, left, x * MIRROR, levels), expected) < TOLERANCE


@pytest.mark.parametrize("smiles", [CENTERS, SULFOXIDE, FLAT, "C/C=C/[C@H](F)Cl"])
def test_permutation(network, smiles):
    mol = mol_from(smiles)
    order = torch.randperm(mol.GetNumAtoms(), generator=torch.Generator().manual_seed(2))
    first = MolBatch.collate([featurize(mol)])
    second = MolBatch.collate([featurize(Chem.RenumberAtoms(mol, order.tolist()))])
    x, levels = noisy(first), _levels(first, 0.4)
    plain = denoise(network, first, x, levels)
    assert (
        largest_difference(denoise(network, second, x[:, order], levels), plain[:, order])
        < TOLERANCE
    )


def test_order_of_a_centres_neighbours(network):
    batch = batch_of(CENTERS)
    x, levels = noisy(batch), _levels(batch, 0.4)
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
    plain = denoise(network, tight, x, _levels(tight, 0.3))
    wide = denoise(network, loose, padded, _levels(tight, 0.3))
    assert largest_difference(wide[:, : graph.n_atoms], plain) < TOLERANCE
    padded[:, graph.n_atoms :] = 7.0  # what stands in the padding is not read
    assert torch.equal(denoise(network, loose, padded, _levels(tight, 0.3)), wide)


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
    levels = _levels(batch, 0.3)

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


def test_double_bond_label_changes_the_output(network):
    cis, trans, free = (batch_of(s) for s in ("C/C=C\\C", "C/C=C/C", "CC=CC"))
    x, levels = noisy(cis), _levels(cis, 0.5)
    outputs = [denoise(network, b, x, levels) for b in (cis, trans, free)]
    for k in range(3):
        assert largest_difference(outputs[k], outputs[k - 1]) > 10 * TOLERANCE


def test_noise_level_changes_the_field(network):
    batch = batch_of(CENTERS)
    x = center(noisy(batch), batch.mask)
    # The same inputs except for σ: only the conditioning can make a difference.
    fields = [
        network(batch, x, x, torch.ones(1), torch.tensor([s])) for s in (0.01, 0.1, 1.0, 10.0)
    ]
    for k in range(3):
        assert largest_difference(fields[k], fields[k + 1]) > 30 * TOLERANCE


@pytest.mark.parametrize("sigma", [0.002, 80.0])
@pytest.mark.parametrize("smiles", ["[Cl-]", "[H][H]", "C#N", CENTERS])
def test_extreme_noise_levels(network, smiles, sigma):
    batch = (
        batch_of(smiles)
        if smiles != "[H][H]"
        else MolBatch.collate([featurize(Chem.MolFromSmiles(smiles))])
    )
    levels = _levels(batch, sigma)
    size = float(sigma_data(batch.n_atoms)[0])
    x = center(noisy(batch, math.hypot(size, sigma)), batch.mask)
    denoised = denoise(network, batch, x, levels)
    assert torch.isfinite(denoised).all()
    if sigma < size:  # nothing to remove: D stays within some σ of x
        assert largest_difference(denoised, x) < 20 * sigma
    else:  # nothing to see: D has the size of a molecule and not of the noise
        assert denoised.norm(dim=-1).max() < 20 * size


def test_single_atom_stays_at_the_origin(network):
    batch = batch_of("[Cl-]", "C")
    x = noisy(batch) + torch.tensor([5.0, 0.0, 0.0])
    assert (denoise(network, batch, x, _levels(batch, 1.0))[0] == 0).all()


@pytest.mark.parametrize("dense_limit", [128, 1])
def test_coincident_atoms(dense_limit):
    network = tiny_network(dense_limit=dense_limit).requires_grad_(True)
    batch = batch_of(CENTERS)
    for x in (torch.zeros(1, batch.mask.shape[1], 3), noisy(batch)):
        x[:, 1] = x[:, 2]
        x[:, 5] = x[:, 2]
        denoised = denoise(network, batch, x, _levels(batch, 0.1))
        assert torch.isfinite(denoised).all()
        network.zero_grad()
        denoised.square().sum().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients
        assert all(torch.isfinite(g).all() for g in gradients)


def test_bind_is_denoise(network):
    batch = batch_of(CENTERS, "O")
    x, levels = noisy(batch), torch.tensor([0.1, 2.0])
    assert torch.equal(bind(network, batch)(x, levels), denoise(network, batch, x, levels))


@pytest.mark.parametrize("edges", [False, True], ids=["dense", "edges"])
def test_without_gradients_values_are_overwritten_and_are_the_same(network, edges):
    batch = batch_of(CENTERS, FLAT)
    x, levels = noisy(batch, 1.3), _levels(batch, 0.3)
    pairs = EdgePairs(batch, x, 12.0) if edges else DensePairs(batch, 12.0)
    field = functools.partial(network, pairs=pairs)
    plain = denoise(field, batch, x, levels)
    for _ in range(2):  # and nothing that is read again
        with torch.no_grad():
            assert largest_difference(denoise(field, batch, x, levels), plain) < TOLERANCE


class _Mixed(TorchDispatchMode):
    """Collects operations on messages whose operands differ in precision."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.seen, self.mixed = width, 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        floats = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
        pairs = any(
            a.ndim > 1 and a.shape[-1] == self.width and a.numel() > self.width for a in floats
        )
        if len(floats) > 1 and pairs:
            self.seen += 1
            if len({a.dtype for a in floats}) > 1:
                self.mixed.append(func)
        return func(*args, **(kwargs or {}))


def test_in_bfloat16_no_message_falls_back_to_float32(network):
    """One float32 bias in the sum makes everything after it float32, several times slower."""
    batch = batch_of(CENTERS)
    inputs = (batch, noisy(batch), noisy(batch, 2), torch.ones(1), _levels(batch, 0.5))
    width = network.config.width
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), _Mixed(width) as operations:
        network(*inputs)
    assert operations.seen > 3 * len(network.layers)
    assert operations.mixed == []


def test_features_of_distances_are_never_subnormal():
    # Products with them would take three times as long on many processors.
    basis = RadialBasis(32)
    values = basis(torch.logspace(-12, 6, 1000))
    assert values.min() > 0.5**61
    assert values.max() > 0.99
    distances = torch.tensor([0.3, 25.0]) ** 2
    assert torch.allclose(basis(distances)[[0, 1], [0, -1]], torch.ones(2), atol=1e-3)


def test_preconditioning_of_karras():
    batch = batch_of(CENTERS, "O")
    x, sigma = noisy(batch), torch.tensor([0.1, 2.0])
    base, scale, x_in = precondition(batch, x, sigma)
    data = 0.36 * np.sqrt(batch.n_atoms.numpy())
    s = sigma.numpy()
    for k in range(2):
        total = s[k] ** 2 + data[k] ** 2
        np.testing.assert_allclose(base[k], data[k] ** 2 / total * x[k].numpy(), rtol=1e-5)
        np.testing.assert_allclose(scale[k], s[k] * data[k] / np.sqrt(total), rtol=1e-5)
        np.testing.assert_allclose(x_in[k], data[k] / np.sqrt(total) * x[k].numpy(), rtol=1e-5)
