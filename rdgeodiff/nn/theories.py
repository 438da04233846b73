"""Levels of theory a network learns beside the one it is made for.

Geometries of a force field teach how molecules fold, and some of it wrongly: MMFF94s turns an oxime
ester or an ortho-methoxy group where GFN2-xTB does not. Told whose a conformer is, the network
shares between the levels what holds at all of them and keeps the differences apart. It is told by
an offset to the embedding of the noise level, one vector a level of theory, and none for the one it
is made for: the trained network denoises to that one by itself. The offsets lie beside its weights
for whoever trains it further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from rdgeodiff.nn.graph_field import GraphFieldLayer, GraphFieldNetwork


class Theories(nn.Module):
    """Offsets to the embedding of the noise level, to be learnt.

    Args:
        of_shards: name of each shard's level of theory; "" for the one the network is made for.
        width: of the embedding.
    """

    numbers: torch.Tensor

    def __init__(self, of_shards: Sequence[str], width: int) -> None:
        super().__init__()
        self.names = names_of(of_shards)
        numbers = [self.names.index(name) + 1 if name else 0 for name in of_shards]
        self.register_buffer("numbers", torch.tensor(numbers), persistent=False)
        if self.names:
            # Zero: a run begins with what the network knows of all of them together.
            self.offsets = nn.Parameter(torch.zeros(len(self.names), width))

    @torch.no_grad()
    def begin_with(self, known: Mapping[str, torch.Tensor]) -> None:
        """Take over the offsets of levels of theory that a model knows by name."""
        for k, name in enumerate(self.names):
            if name in known:
                self.offsets[k] = known[name]

    def forward(self, shards: torch.Tensor) -> torch.Tensor | None:
        """(B, width) of molecules from `shards` (B,); None where there is one level alone."""
        if not hasattr(self, "offsets"):
            return None
        known = torch.arange(1, len(self.offsets) + 1, device=shards.device)
        return (self.numbers[shards].unsqueeze(-1) == known).float() @ self.offsets


def names_of(of_shards: Sequence[str]) -> list[str]:
    """The levels of theory that have an offset, in the order of `Theories.offsets`."""
    return sorted(set(of_shards) - {""})


@torch.no_grad()
def lead_away(
    network: GraphFieldNetwork, offsets: Mapping[str, torch.Tensor], away: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """Give `network` minus a share of an offset for good.

    Levels of theory part only as far as training has brought them; going on in the direction from
    one to the network's own lessens what is left of it.

    Args:
        network: changed in place.
        offsets: of its levels of theory, (H,) each.
        away: names of some of them → share.

    Returns:
        The offsets that tell the changed network what `offsets` told it before.
    """
    step = torch.stack([share * offsets[name] for name, share in away.items()]).sum(0)
    for layer in network.layers:
        assert isinstance(layer, GraphFieldLayer)
        layer.modulate.bias -= layer.modulate.weight @ step
    return {name: offset + step for name, offset in offsets.items()}
