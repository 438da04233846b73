"""A larger network that starts as the function a smaller, trained one computes.

What was learnt is kept while capacity is added (the idea of Net2Net, Chen et al. 2016, arXiv
1511.05641). Columns that read new features start at zero; rows that make them, and whole new
layers, keep their own initial values, for a new layer changes nothing until it is trained.
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
    for name, old in weights.items():
        new = own.get(name)
        if new is None:
            raise ValueError(f"the larger network has no {name}")
        smaller = new.ndim != old.ndim
        if smaller or any(n < o for n, o in zip(new.shape, old.shape, strict=True)):
            raise ValueError(f"{name}: {tuple(old.shape)} does not fit into {tuple(new.shape)}")
        rows = new[: len(old)]
        rows.zero_()
        rows[tuple(slice(n) for n in old.shape)] = old.to(new)
