"""What a graph field layer adds to the paper's kernel: handedness, and vectors of atoms."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from rdgeodiff.graph import MolBatch

# Signed volumes (B, S) of specified centres and their gradients (B, S, 4, 3).
Volumes = tuple[torch.Tensor, torch.Tensor]


class StereoTerm(nn.Module):
    """Pushes specified centres towards their hand.

    The signed volume of a centre's neighbours, times the demanded sign, is an even quantity (it
    does not change when both the molecule and its tags are mirrored); so is the gradient of the
    volume times the sign a proper vector. Both may therefore enter an equivariant layer.
    """

    def __init__(self, node_width: int, hidden: int = 32) -> None:
        super().__init__()
        self.center = nn.Linear(node_width, hidden)
        self.neighbor = nn.Linear(node_width, hidden, bias=False)
        self.volume = nn.Linear(2, hidden, bias=False)
        self.push = nn.Linear(hidden, 2)
        self.tell = nn.Linear(2, node_width, bias=False)
        nn.init.zeros_(self.push.weight)
        nn.init.zeros_(self.push.bias)

    def forward(
        self, h: torch.Tensor, views: tuple[Volumes, Volumes], batch: MolBatch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Updates (B, N, node_width) of h and (B, N, 3) of x from `views` of two structures."""
        sign = batch.parities.unsqueeze(-1)
        volumes = torch.stack([v for v, _ in views], -1) * sign  # (B, S, 2)
        index = batch.centers[..., 0:1].expand(-1, -1, h.shape[-1])
        told = torch.zeros_like(h).scatter_add(1, index, self.tell(volumes).to(h.dtype))

        center = h.gather(1, index).unsqueeze(2)
        ligands = batch.centers[..., 1:].flatten(1, 2)
        around = h.gather(1, ligands.unsqueeze(-1).expand(-1, -1, h.shape[-1]))
        hidden = self.center(center) + self.neighbor(around).unflatten(1, (-1, 4))
        strength = self.push(functional.silu(hidden + self.volume(volumes).unsqueeze(2))).float()
        move = sum(
            strength[..., k : k + 1] * gradient * sign.unsqueeze(2)
            for k, (_, gradient) in enumerate(views)
        )
        moved = move.new_zeros(*h.shape[:2], 3).scatter_add(
            1, ligands.unsqueeze(-1).expand(-1, -1, 3), move.flatten(1, 2)
        )
        return told, moved


def unit_volumes(x: torch.Tensor, centers: torch.Tensor) -> Volumes:
    """Signed volume (B, S) of the unit vectors from a centre to its neighbours, and its gradient
    (B, S, 4, 3) with respect to those vectors; scale-free, hence bounded at every noise level."""
    batch, count, _ = centers.shape
    points = x.gather(1, centers.reshape(batch, -1, 1).expand(-1, -1, 3)).view(batch, count, 5, 3)
    arms = points[:, :, 1:] - points[:, :, :1]
    arms = arms / torch.sqrt(arms.square().sum(-1, keepdim=True) + 1e-3)
    sides = arms[:, :, :3] - arms[:, :, 3:]  # a - d, b - d, c - d
    gradient = torch.linalg.cross(sides.roll(-1, 2), sides.roll(1, 2))
    volume = (sides[:, :, 0] * gradient[:, :, 0]).sum(-1)
    return volume, torch.cat([gradient, -gradient.sum(2, keepdim=True)], 2)


class VectorTerm(nn.Module):
    """Lets atoms collect and pass on vectors, which no sum over distances alone can tell apart.

    All vectors are sums of difference vectors with invariant weights, so they turn with the
    molecule and are mirrored with it.
    """

    def __init__(self, count: int, node_width: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.eye(count) + 0.1 * torch.randn(count, count))
        self.push = nn.Linear(node_width, count)
        nn.init.zeros_(self.push.weight)
        nn.init.zeros_(self.push.bias)

    def forward(
        self, h: torch.Tensor, v: torch.Tensor, collected: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Add what was `collected` (B, N, K, 3) from other atoms.

        Returns:
            New vectors (B, N, K, 3), their invariants (B, N, K) and a coordinate step (B, N, 3).
        """
        v = v + 0.3 * collected
        mixed = torch.einsum("bnkc,kl->bnlc", v, self.mix)
        invariants = torch.tanh((v * mixed).sum(-1) * 0.1)
        step = (self.push(h).float().unsqueeze(-1) * mixed).sum(-2) * 0.1
        return v, invariants, step
