"""A larger network that starts as the function a smaller, trained one computes.

What was learnt is kept while capacity is added (the idea of Net2Net, Chen et al. 2016, arXiv
1511.05641). Columns that read new features start at zero; rows that make them, and whole new
layers, keep their own initial values, for a new layer changes nothing until it is trained.

With more layers, vectors or channels of pairs the function stays the same. With a wider node state
it stays close: the layers' norms are then taken over the new channels, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


@torch.no_grad()
def grow(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a freshly made, larger `network` the `weights` of a smaller one of the same kind.

    Args:
        network: with more layers, or with more rows or columns in its matrices.
        weights: parameters of the smaller network by name.

    Raises:
        ValueError: a parameter that `network` does not have, or has in a smaller shape.
    """
    own = dict(network.named_parameters())
    ours, theirs = _sections(own), _sections(weights)
    for name, old in weights.items():
        new = own.get(name)
        if new is None:
            raise ValueError(f"the larger network has no {name}")
        smaller = new.ndim != old.ndim
        if smaller or any(n < o for n, o in zip(new.shape, old.shape, strict=True)):
            raise ValueError(f"{name}: {tuple(old.shape)} does not fit into {tuple(new.shape)}")
        places = [
            _places(old.shape[axis], *(_of(s, name, axis) for s in (theirs, ours)))
            for axis in range(old.ndim)
        ]
        made = places[:1]
        if name.endswith("vectors.mix"):  # whose rows are what it reads
            made = [torch.arange(len(new)), places[1]]
        new[torch.meshgrid(*made, indexing="ij")] = 0.0
        new[torch.meshgrid(*places, indexing="ij")] = old.to(new)
    _share_norms(own, weights)


def _sections(weights: Mapping[str, torch.Tensor]) -> dict[tuple[str, int], list[int]]:
    """Ending of a parameter's name, axis → lengths of the parts this axis is made of."""
    if "pair.weight" not in weights or "embed.weight" not in weights:
        return {}
    node, width = len(weights["embed.weight"]), len(weights["layers.0.message.weight"])
    vectors = (len(weights["layers.0.weights.weight"]) - 3) // 2
    parts = {
        ("pair.weight", 0): [width] * (len(weights["pair.weight"]) // width),
        ("modulate.weight", 0): [node, node],
        ("weights.weight", 0): [3, vectors, vectors],
        ("update.0.weight", 1): [node, width, vectors],
    }
    of_rows = {name: lengths for (name, axis), lengths in parts.items() if axis == 0}
    return parts | {(name.removesuffix("weight") + "bias", 0): p for name, p in of_rows.items()}


def _of(sections: Mapping[tuple[str, int], list[int]], name: str, axis: int) -> list[int] | None:
    for (ending, along), lengths in sections.items():
        if along == axis and (name == ending or name.endswith("." + ending)):
            return lengths
    return None


def _places(count: int, theirs: list[int] | None, ours: list[int] | None) -> torch.Tensor:
    """Where the old rows (or columns) lie among the new ones."""
    if theirs is None or ours is None:
        return torch.arange(count)
    starts = torch.tensor([0, *ours]).cumsum(0)
    return torch.cat([start + torch.arange(n) for start, n in zip(starts, theirs, strict=False)])


def _share_norms(own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Undo what new channels that are nearly zero do to the norm of the old ones."""
    if "embed.weight" not in weights:
        return
    before, now = len(weights["embed.weight"]), len(own["embed.weight"])
    if before == now:
        return
    share = (before / now) ** 0.5
    for name, old in weights.items():
        if name.endswith("modulate.weight"):
            own[name][:before] *= share
        elif name.endswith("modulate.bias"):  # of 1 + scale
            own[name][:before] = share * (1.0 + old[:before]) - 1.0
