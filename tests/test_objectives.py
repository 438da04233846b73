"""The objectives GeoDiff-A and GeoDiff-C, and the noise levels they are trained on."""

from __future__ import annotations

import pytest
import torch
from helpers import batch_of, embedded, largest_difference, noisy, positions_of, tiny_network

from rdgeodiff.diffusion.chain_rule import chain_rule_clean
from rdgeodiff.diffusion.denoiser import denoise, sigma_data
from rdgeodiff.diffusion.objectives import (
    aligned_loss,
    chain_rule_pair,
    draw_sigmas,
    edge_score_error,
    field_error,
    noisy_pair,
    plain_pair,
)
from rdgeodiff.geometry import align, center, random_rotations
from rdgeodiff.nn.atom_graphs import AtomGraphs, Edges
from rdgeodiff.nn.dual_encoder import EdgeScores

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


# GeoDiff-C


def test_chain_rule_target_is_the_formula():
    """x − (2/N) Σ_j (d − d⁰)(x_i − x_j)/d, and so x − 2/N of the gradient of ½ Σ (d − d⁰)²."""
    batch, clean, noise, sigma = _case()
    x, target = chain_rule_pair(batch, clean, noise, sigma)
    assert largest_difference(x, clean + sigma.view(-1, 1, 1) * center(noise, batch.mask)) < 1e-5
    for k, n in enumerate(batch.n_atoms.tolist()):
        points = x[k, :n].double().requires_grad_(True)
        right = clean[k, :n].double()
        by_hand = torch.zeros(n, 3, dtype=torch.float64)
        stress = torch.zeros((), dtype=torch.float64)
        for i in range(n):
            for j in range(n):
                if i == j:
                    continue
                apart = points[i] - points[j]
                excess = apart.norm() - (right[i] - right[j]).norm()
                by_hand[i] += (excess * apart / apart.norm()).detach()
                stress = stress + 0.25 * excess**2  # every pair is met twice
        stress.backward()
        assert torch.allclose(points.grad, by_hand)
        expected = points.detach() - 2.0 / n * by_hand
        assert largest_difference(target[k, :n].double(), expected) < 1e-4
        assert (target[k, n:] == 0).all()


def test_chain_rule_target_knows_distances_only():
    batch, clean, noise, sigma = _case()
    x, target = chain_rule_pair(batch, clean, noise, sigma)
    turn = random_rotations(3, torch.Generator().manual_seed(1))
    mirrored = clean * torch.tensor([1.0, 1.0, -1.0])
    for other in (clean @ turn.mT, mirrored):
        assert largest_difference(chain_rule_clean(batch, x, other), target) < 1e-4
    assert largest_difference(chain_rule_clean(batch, x @ turn.mT, clean), target @ turn.mT) < 1e-3
    # A structure whose distances are right already is left alone.
    assert largest_difference(chain_rule_clean(batch, clean @ turn.mT, clean), clean @ turn.mT) < (
        1e-4
    )


def test_chain_rule_is_minimised_by_the_mean_noise_of_distances():
    """Of two conformers that could have been there, the best field speaks of their mean distances;
    the paper's closed form with E[d⁰ | x] in the place of d⁰."""
    batch, clean, noise, sigma = _case()
    other = clean + 0.4 * noisy(batch, 1.0, seed=9)
    x = plain_pair(batch, clean, noise, sigma)[0]
    targets = [chain_rule_clean(batch, x, c) for c in (clean, other)]
    wanted = torch.stack(targets).mean(0).requires_grad_(True)

    def field(batch, x_in, base, scale, sigma):
        return (wanted - base) / scale.view(-1, 1, 1)

    loss = sum(field_error(field, batch, x, t, sigma) for t in targets)
    (gradient,) = torch.autograd.grad(loss.sum(), wanted)
    assert gradient.abs().max() < 1e-4
    both = torch.stack([torch.cdist(c, c) for c in (clean, center(other, batch.mask))]).mean(0)
    for k, n in enumerate(batch.n_atoms.tolist()):
        points = x[k, :n]
        apart = points.unsqueeze(1) - points
        length = torch.cdist(points, points) + torch.eye(n)
        push = (1.0 - both[k, :n, :n] / length) * (1 - torch.eye(n))
        expected = points - 2.0 / n * (push.unsqueeze(-1) * apart).sum(1)
        assert largest_difference(wanted[k, :n].detach(), expected) < 1e-3


def _exact_scores(clean, sigma, shift=0.0):
    """A network whose edges know the clean distances."""

    def network(graphs, x, with_global=True):
        edges = Edges.of(graphs, x, 10.0, None)
        source, target = edges.index
        level = sigma[graphs.molecule[source]]
        score = ((clean[source] - clean[target]).norm(dim=-1) - edges.length) / level + shift
        return EdgeScores(edges, score, score[edges.is_local], len(x))

    return network


def test_edge_loss_is_zero_for_exact_scores_only():
    batch, clean, noise, sigma = _case()
    x, plain = plain_pair(batch, clean, noise, sigma)
    graphs = AtomGraphs.from_batch(batch)
    for shift, low, high in ((0.0, 0.0, 1e-3), (0.3, 1.0, 1e4)):
        network = _exact_scores(plain[batch.mask], sigma, shift)
        loss = edge_score_error(network, graphs, batch, x, plain, sigma, "chain_rule")
        assert loss.shape == (3,)
        assert ((loss >= low) & (loss <= high)).all()


def test_edge_loss_weighs_both_branches_and_superposes():
    """Under "aligned" a field of zero costs (2 + 5) |ε|² per atom, ε after superposition."""
    batch, clean, noise, sigma = _case()
    x, aligned = noisy_pair(batch, clean, noise, sigma)
    graphs = AtomGraphs.from_batch(batch)

    def silent(graphs, x, with_global=True):
        edges = Edges.of(graphs, x, 10.0, None)
        none = torch.zeros_like(edges.length)
        return EdgeScores(edges, none, none[edges.is_local], len(x))

    loss = edge_score_error(silent, graphs, batch, x, aligned, sigma, "aligned")
    noise = ((x - aligned) / sigma.view(-1, 1, 1)).square().sum((1, 2)) / batch.n_atoms
    assert torch.allclose(loss, 7.0 * noise, rtol=1e-4)
