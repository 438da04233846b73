"""The alignment objective (GeoDiff-A) and the noise levels it is trained on."""

from __future__ import annotations

import pytest
import torch
from helpers import batch_of, embedded, largest_difference, noisy, positions_of, tiny_network

from rdgeodiff.diffusion.denoiser import denoise, sigma_data
from rdgeodiff.diffusion.objectives import aligned_loss, draw_sigmas, noisy_pair
from rdgeodiff.geometry import align, center, random_rotations

SMILES = ("CC(=O)Oc1ccccc1", "C[C@H](F)Cl", "O")


def _case():
    batch = batch_of(*SMILES)
    clean = torch.zeros(*batch.mask.shape, 3)
    for k, smiles in enumerate(SMILES):
        positions = torch.from_numpy(positions_of(embedded(smiles))[0]).float()
        clean[k, : len(positions)] = positions
    return (
        batch,
        center(clean, batch.mask),
        noisy(batch, 1.0, seed=3),
        torch.tensor([0.1, 1.0, 5.0]),
    )


def test_perfect_field_has_no_loss():
    batch, clean, noise, sigma = _case()
    _, aligned = noisy_pair(batch, clean, noise, sigma)

    def perfect(batch, x_in, base, scale, sigma):
        return (aligned - base) / scale.view(-1, 1, 1)

    loss = aligned_loss(perfect, batch, clean, noise, sigma)
    assert loss.shape == (3,)
    assert loss.abs().max() < 1e-9
    # A constant shift of the field is no error: positions are centre-of-mass free.
    shifted = aligned_loss(lambda *a: perfect(*a) + 3.0, batch, clean, noise, sigma)
    assert shifted.abs().max() < 1e-9
    off = aligned_loss(lambda *a: perfect(*a) * 1.1, batch, clean, noise, sigma)
    assert (off > 1e-5).all()


def test_loss_is_the_weighted_error_of_the_denoiser():
    """(σ² + σ_data²)/(σ σ_data)² times the mean square error of D (Karras et al. 2022, table 1)."""
    batch, clean, noise, sigma = _case()
    network = tiny_network()
    x, aligned = noisy_pair(batch, clean, noise, sigma)
    error = (denoise(network, batch, x, sigma) - aligned).square().sum((1, 2)) / (
        3.0 * batch.n_atoms
    )
    data = sigma_data(batch.n_atoms)
    expected = error * (sigma**2 + data**2) / (sigma * data) ** 2
    assert torch.allclose(aligned_loss(network, batch, clean, noise, sigma), expected, rtol=1e-3)


def test_loss_does_not_depend_on_orientation_or_place():
    batch, clean, noise, sigma = _case()
    network = tiny_network()
    turn = random_rotations(3, torch.Generator().manual_seed(0))
    plain = aligned_loss(network, batch, clean, noise, sigma)
    both = aligned_loss(network, batch, clean @ turn.mT, noise @ turn.mT, sigma)
    assert torch.allclose(both, plain, rtol=2e-3)
    shift = torch.tensor([4.0, -3.0, 2.0]) * batch.mask.unsqueeze(-1)
    moved = aligned_loss(network, batch, clean + shift, noise + shift, sigma)
    assert torch.allclose(moved, plain, rtol=2e-3)


def test_target_is_superposed_on_the_noisy_structure():
    batch, clean, noise, sigma = _case()
    x, aligned = noisy_pair(batch, clean, noise, sigma)
    assert largest_difference(x, clean + sigma.view(-1, 1, 1) * center(noise, batch.mask)) < 1e-5
    assert ((x - aligned).square().sum((1, 2)) <= (x - clean).square().sum((1, 2)) + 1e-4).all()
    for k, n in enumerate(batch.n_atoms.tolist()):  # rigid: no distance has changed
        assert (
            largest_difference(
                torch.cdist(aligned[k, :n], aligned[k, :n]), torch.cdist(clean[k, :n], clean[k, :n])
            )
            < 2e-3
        )
        assert (aligned[k, n:] == 0).all()
        assert (x[k, n:] == 0).all()
    assert largest_difference(align(aligned, x), aligned) < 1e-3  # no turn brings it closer
    assert largest_difference(aligned[2], clean[2]) > 0.1  # and at much noise it did turn
    # At little noise nothing turns.
    small = torch.full((3,), 1e-4)
    assert largest_difference(noisy_pair(batch, clean, noise, small)[1], clean) < 1e-3


def test_loss_ignores_padding_and_batch_mates():
    batch, clean, noise, sigma = _case()
    network = tiny_network()
    together = aligned_loss(network, batch, clean, noise, sigma)
    for k, smiles in enumerate(SMILES):
        single = batch_of(smiles)
        n = int(single.n_atoms[0])
        part = slice(k, k + 1)
        alone = aligned_loss(network, single, clean[part, :n], noise[part, :n], sigma[part])
        assert torch.allclose(alone[0], together[k], rtol=2e-3)


def test_gradient_of_the_loss_is_finite():
    batch, clean, noise, sigma = _case()
    network = tiny_network().requires_grad_(True)
    aligned_loss(network, batch, clean, noise, sigma).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_sigmas_are_log_normal_within_bounds():
    generator = torch.Generator().manual_seed(0)
    sigmas = draw_sigmas(20_000, generator)
    assert sigmas.shape == (20_000,)
    assert sigmas.min() >= 0.002
    assert sigmas.max() <= 13.0
    assert sigmas.log().median().item() == pytest.approx(-0.7, abs=0.05)
    assert sigmas.log().std().item() == pytest.approx(1.6, abs=0.06)
    narrow = draw_sigmas(1000, generator, log_mean=0.0, log_std=5.0, low=0.5, high=2.0)
    assert narrow.min() == 0.5
    assert narrow.max() == 2.0
    assert torch.equal(
        draw_sigmas(5, torch.Generator().manual_seed(1)),
        draw_sigmas(5, torch.Generator().manual_seed(1)),
    )
