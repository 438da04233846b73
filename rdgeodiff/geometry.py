"""Geometry of point sets in Å: centring, optimal superposition, signed volumes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


def center(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Move the centroid of each molecule to the origin; padding stays at zero.

    Args:
        x: (B, N, 3) positions in Å.
        mask: (B, N) bool.
    """
    weight = mask.unsqueeze(-1).to(x.dtype)
    mean = (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    return (x - mean) * weight


def kabsch_rotation(mobile: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Proper rotations (B, 3, 3) that bring centred `mobile` (B, N, 3) closest to `target`.

    Apply as `mobile @ R.mT`. Reflections are excluded (Kabsch 1976), so handedness is never lost.
    """
    # One molecule with NaN must not make the decomposition of a whole batch fail.
    covariance = (mobile.mT @ target).nan_to_num()
    u, _, vh = torch.linalg.svd(covariance.double())
    sign = torch.det(u @ vh).sign()
    flip = torch.ones(*sign.shape, 3, dtype=u.dtype, device=u.device)
    flip[..., 2] = sign
    return ((u * flip.unsqueeze(-2)) @ vh).mT.to(mobile.dtype)


def align(mobile: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`mobile` (B, N, 3) rotated onto `target`; both centred with zeros as padding."""
    return mobile @ kabsch_rotation(mobile, target).mT


def random_rotations(count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """(count, 3, 3) rotation matrices, uniform over SO(3) (normalised Gaussian quaternions)."""
    q = torch.randn(count, 4, generator=generator)
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(rows, -1).view(count, 3, 3)


def signed_volumes(x: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Signed volume (a-d)·((b-d)×(c-d)) in Å³ of each centre's neighbours.

    Args:
        x: (B, N, 3) positions.
        centers: (B, S, 5) int64 indices (centre, a, b, c, d).

    Returns:
        (B, S) volumes; a reflection of `x` changes their sign and nothing else.
    """
    a, b, c, d = neighbor_positions(x, centers).unbind(2)
    return ((a - d) * torch.linalg.cross(b - d, c - d)).sum(-1)


def neighbor_positions(x: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Positions (B, S, 4, 3) of the four reference atoms a, b, c, d of each centre."""
    batch, count, _ = centers.shape
    index = centers[..., 1:].reshape(batch, count * 4, 1).expand(-1, -1, 3)
    return x.gather(1, index).view(batch, count, 4, 3)


def volume_gradient(x: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Gradient (B, S, 4, 3) in Å² of `signed_volumes` with respect to a, b, c, d."""
    a, b, c, d = neighbor_positions(x, centers).unbind(2)
    ga = torch.linalg.cross(b - d, c - d)
    gb = torch.linalg.cross(c - d, a - d)
    gc = torch.linalg.cross(a - d, b - d)
    return torch.stack([ga, gb, gc, -(ga + gb + gc)], 2)


@dataclass(frozen=True)
class HeldAtoms:
    """Atoms of a molecule that have to end at given places.

    Attributes:
        atoms: (K,) int indices, K ≥ 1.
        positions: (K, 3) float64 in Å.
    """

    atoms: np.ndarray
    positions: np.ndarray

    def place(self, conformer: np.ndarray) -> tuple[np.ndarray, float]:
        """Move (N, 3) positions as a rigid body, without reflection, into the frame of the places.

        Returns:
            the moved positions and the largest distance in Å of a held atom from its place.
        """
        held = conformer[self.atoms]
        middle, target = held.mean(0), self.positions.mean(0)
        mobile = torch.from_numpy(held - middle)[None]
        fixed = torch.from_numpy(self.positions - target)[None]
        rotation = kabsch_rotation(mobile, fixed)[0].numpy()
        moved = (conformer - middle) @ rotation.T + target
        gaps = np.linalg.norm(moved[self.atoms] - self.positions, axis=-1)
        return moved, float(gaps.max())
