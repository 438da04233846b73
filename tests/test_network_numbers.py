"""Values of the denoiser: at every noise level, in half precision, and where atoms coincide."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from helpers import batch_of, largest_difference, noisy, tiny_network
from network_cases import CENTERS, FLAT, TOLERANCE, levels_of
from rdkit import Chem
from torch.utils._python_dispatch import TorchDispatchMode

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.diffusion.denoiser import bind, denoise, precondition, sigma_data
from rdgeodiff.geometry import center
from rdgeodiff.graph import MolBatch
from rdgeodiff.nn.graph_field import RadialBasis
from rdgeodiff.nn.neighbors import DensePairs, EdgePairs


@pytest.fixture(scope="module", params=[0, 5], ids=["plain", "vectors"])
def network(request):
    return tiny_network(vectors=request.param)


def test_double_bond_label_changes_the_output(network):
    cis, trans, free = (batch_of(s) for s in ("C/C=C\\C", "C/C=C/C", "CC=CC"))
    x, levels = noisy(cis), levels_of(cis, 0.5)
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
    levels = levels_of(batch, sigma)
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
    assert (denoise(network, batch, x, levels_of(batch, 1.0))[0] == 0).all()


@pytest.mark.parametrize("dense_limit", [128, 1])
def test_coincident_atoms(dense_limit):
    network = tiny_network(dense_limit=dense_limit).requires_grad_(True)
    batch = batch_of(CENTERS)
    for x in (torch.zeros(1, batch.mask.shape[1], 3), noisy(batch)):
        x[:, 1] = x[:, 2]
        x[:, 5] = x[:, 2]
        denoised = denoise(network, batch, x, levels_of(batch, 0.1))
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
    x, levels = noisy(batch, 1.3), levels_of(batch, 0.3)
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
    inputs = (batch, noisy(batch), noisy(batch, 2), torch.ones(1), levels_of(batch, 0.5))
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
