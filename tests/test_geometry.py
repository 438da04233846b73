"""Geometry against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from rdgeodiff.geometry import (
    align,
    center,
    kabsch_rotation,
    neighbor_positions,
    random_rotations,
    signed_volumes,
    volume_gradient,
)


def _cloud(batch: int, n: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(batch, n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x - x.mean(1, keepdim=True)


def test_kabsch_agrees_with_scipy():
    mobile, target = _cloud(20, 9), _cloud(20, 9, seed=1)
    rotations = kabsch_rotation(mobile, target)
    for k in range(20):
        expected, rssd = Rotation.align_vectors(target[k].numpy(), mobile[k].numpy())
        np.testing.assert_allclose(rotations[k].numpy(), expected.as_matrix(), atol=1e-7)
        found = (align(mobile, target)[k] - target[k]).norm().item()
        assert found == pytest.approx(rssd, abs=1e-7)


def test_kabsch_recovers_a_known_rotation():
    target = _cloud(8, 12)
    turn = random_rotations(8, torch.Generator().manual_seed(3)).double()
    mobile = target @ turn.mT
    assert torch.allclose(align(mobile, target), target, atol=1e-5)


def test_kabsch_never_reflects():
    target = _cloud(30, 6)
    mirrored = target * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    rotations = kabsch_rotation(mirrored, target)
    assert torch.allclose(torch.det(rotations), torch.ones(30, dtype=torch.float64))
    assert ((align(mirrored, target) - target).square().sum((1, 2)) > 1e-2).all()


@pytest.mark.parametrize("points", [[[0, 0, 0]], [[1, 0, 0], [-1, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
def test_kabsch_of_degenerate_points_is_finite_and_closest(points):
    mobile = torch.tensor([points], dtype=torch.float64)
    target = mobile[..., [2, 0, 1]]
    assert torch.allclose(align(mobile, target), target, atol=1e-9)


def test_kabsch_of_flat_molecules_is_proper():
    flat = _cloud(10, 8)
    flat[..., 2] = 0.0
    turn = random_rotations(10, torch.Generator().manual_seed(2)).double()
    rotations = kabsch_rotation(flat @ turn.mT, flat)
    # A planar covariance has a zero singular value, where a careless sign would give a reflection.
    assert torch.allclose(torch.det(rotations), torch.ones(10, dtype=torch.float64))
    assert torch.allclose(flat @ turn.mT @ rotations.mT, flat, atol=1e-5)


def test_alignment_ignores_padding():
    mobile, target = _cloud(4, 7), _cloud(4, 7, seed=1)
    padding = torch.zeros(4, 5, 3, dtype=torch.float64)
    padded = align(torch.cat([mobile, padding], 1), torch.cat([target, padding], 1))
    assert torch.allclose(padded[:, :7], align(mobile, target))
    assert (padded[:, 7:] == 0).all()


def test_center_with_padding():
    x = torch.randn(3, 6, 3, dtype=torch.float64) + 5.0
    mask = torch.arange(6) < torch.tensor([[6], [4], [1]])
    centred = center(x, mask)
    assert (centred[~mask] == 0).all()
    assert torch.allclose(centred.sum(1), torch.zeros(3, 3, dtype=torch.float64), atol=1e-12)
    difference = centred[1, :4] - x[1, :4]
    assert torch.allclose(difference, difference[:1].expand(4, 3))
    assert torch.allclose(center(centred, mask), centred)


def test_random_rotations_are_proper_uniform_and_seeded():
    generator = torch.Generator().manual_seed(0)
    rotations = random_rotations(4000, generator).double()
    eye = torch.eye(3, dtype=torch.float64).expand(4000, 3, 3)
    assert torch.allclose(rotations @ rotations.mT, eye, atol=1e-5)
    assert torch.allclose(torch.det(rotations), torch.ones(4000, dtype=torch.float64), atol=1e-5)
    # Uniform over SO(3): every entry has mean 0 and mean square 1/3.
    assert rotations.mean(0).abs().max() < 0.05
    assert (rotations.square().mean(0) - 1 / 3).abs().max() < 0.03
    assert torch.equal(
        random_rotations(3, torch.Generator().manual_seed(5)),
        random_rotations(3, torch.Generator().manual_seed(5)),
    )


def _centers() -> torch.Tensor:
    # The second row is a centre with a lone pair: the centre itself is the fourth point.
    return torch.tensor([[[0, 1, 2, 3, 4], [5, 0, 6, 7, 5]]]).expand(2, -1, -1)


def test_signed_volume_is_odd_under_reflection_and_swaps():
    x = _cloud(2, 8)
    volumes = signed_volumes(x, _centers())
    assert volumes.shape == (2, 2)
    assert torch.allclose(signed_volumes(-x, _centers()), -volumes)
    for order in ([0, 2, 1, 3, 4], [0, 1, 2, 4, 3], [0, 4, 2, 3, 1]):
        swapped = _centers()[..., order]
        assert torch.allclose(signed_volumes(x, swapped), -volumes)
    a, b, c, d = neighbor_positions(x, _centers()).unbind(2)
    matrix = torch.stack([a - d, b - d, c - d], -2)
    assert torch.allclose(torch.det(matrix), volumes)


def test_volume_gradient_is_the_derivative():
    x = _cloud(2, 8).requires_grad_()
    points = neighbor_positions(x, _centers()).detach().requires_grad_()
    a, b, c, d = points.unbind(2)
    ((a - d) * torch.linalg.cross(b - d, c - d)).sum().backward()
    assert torch.allclose(volume_gradient(x.detach(), _centers()), points.grad, atol=1e-12)

    signed_volumes(x, _centers()).sum().backward()
    index = _centers()[..., 1:].flatten(1).unsqueeze(-1).expand(-1, -1, 3)
    scattered = torch.zeros_like(x).scatter_add(
        1, index, volume_gradient(x.detach(), _centers()).flatten(1, 2)
    )
    assert torch.allclose(scattered, x.grad, atol=1e-12)
