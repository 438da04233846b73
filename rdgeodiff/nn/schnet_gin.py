"""The two graph encoders of the original GeoDiff: SchNet on all edges, GIN on local ones.

Attribute names are those of its checkpoints; messages run from source to target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from rdgeodiff.nn.atom_graphs import Edges

ATOM_TYPES = 100  # rows of every embedding, of atoms and of edge types
MAX_NORM = 10.0  # of a row of the global encoder's embedding


class MultiLayerPerceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, width_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        ends = [width_in, *widths]
        self.layers = nn.ModuleList(map(nn.Linear, ends[:-1], ends[1:]))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            values = functional.relu(layer(values))
        return self.layers[-1](values)


class ShiftedSoftplus(nn.Module):
    """log(½ eˣ + ½), zero at zero."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return functional.softplus(values) - math.log(2.0)


class EdgeEncoder(nn.Module):
    """(E, width) features of edges: a function of the length times an embedding of the type."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bond_emb = nn.Embedding(ATOM_TYPES, width)
        self.mlp = MultiLayerPerceptron(1, [width, width])

    def forward(self, edges: Edges) -> torch.Tensor:
        return self.mlp(edges.length.unsqueeze(-1)) * self.bond_emb(edges.type)


class ContinuousFilter(nn.Module):
    """Messages of neighbours through filters made of the edge features (SchNet, eq. 2)."""

    def __init__(self, width: int, cutoff: float, smooth: bool) -> None:
        super().__init__()
        self.cutoff, self.smooth = cutoff, smooth
        self.lin1 = nn.Linear(width, width, bias=False)
        self.lin2 = nn.Linear(width, width)
        self.nn = nn.Sequential(nn.Linear(width, width), ShiftedSoftplus(), nn.Linear(width, width))

    def forward(self, nodes: torch.Tensor, edges: Edges, features: torch.Tensor) -> torch.Tensor:
        weight = (edges.length <= self.cutoff).to(nodes.dtype)
        if self.smooth:
            weight = weight * 0.5 * (torch.cos(edges.length * math.pi / self.cutoff) + 1.0)
        source, target = edges.index
        message = self.lin1(nodes)[source] * self.nn(features) * weight.unsqueeze(-1)
        return self.lin2(torch.zeros_like(nodes).index_add(0, target, message))


class Interaction(nn.Module):
    """What one block adds to the node features."""

    def __init__(self, width: int, cutoff: float, smooth: bool) -> None:
        super().__init__()
        self.conv = ContinuousFilter(width, cutoff, smooth)
        self.act = ShiftedSoftplus()
        self.lin = nn.Linear(width, width)

    def forward(self, nodes: torch.Tensor, edges: Edges, features: torch.Tensor) -> torch.Tensor:
        return self.lin(self.act(self.conv(nodes, edges, features)))


class SchNetEncoder(nn.Module):
    """Global encoder: node features (N, width) from all edges.

    The original shortens rows of its embedding to norm 10 whenever they are looked up, in place.
    Here that happens when the weights arrive, and at look-up only in training, so that a network in
    evaluation mode never changes.
    """

    def __init__(self, width: int, layers: int, cutoff: float, smooth: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(ATOM_TYPES, width)
        self.interactions = nn.ModuleList(Interaction(width, cutoff, smooth) for _ in range(layers))
        self.shorten_rows()
        self.register_load_state_dict_post_hook(lambda module, _: module.shorten_rows())

    def shorten_rows(self) -> None:
        """Scale embedding rows longer than `MAX_NORM` by MAX_NORM/(norm + 1e-7)."""
        with torch.no_grad():
            self.embedding.weight.copy_(torch.renorm(self.embedding.weight, 2, 0, MAX_NORM))

    def forward(
        self, atom_type: torch.Tensor, edges: Edges, features: torch.Tensor
    ) -> torch.Tensor:
        limit = MAX_NORM if self.training else None
        nodes = functional.embedding(atom_type, self.embedding.weight, max_norm=limit)
        for interaction in self.interactions:
            nodes = nodes + interaction(nodes, edges, features)
        return nodes


class GINConvolution(nn.Module):
    """φ((1 + ε) h_i + Σ_j relu(h_j + e_ij)), with ε = 0 throughout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nn = MultiLayerPerceptron(width, [width, width])
        self.register_buffer("eps", torch.zeros(1))

    def forward(self, nodes: torch.Tensor, edges: Edges, features: torch.Tensor) -> torch.Tensor:
        source, target = edges.index
        message = functional.relu(nodes[source] + features)
        return self.nn(((1.0 + self.eps) * nodes).index_add(0, target, message))


class GINEncoder(nn.Module):
    """Local encoder: node features (N, width) from edges up to three bonds long."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.node_emb = nn.Embedding(ATOM_TYPES, width)
        self.convs = nn.ModuleList(GINConvolution(width) for _ in range(layers))

    def forward(
        self, atom_type: torch.Tensor, edges: Edges, features: torch.Tensor
    ) -> torch.Tensor:
        nodes = self.node_emb(atom_type)
        for step, conv in enumerate(self.convs, 1):
            update = conv(nodes, edges, features)
            nodes = nodes + (functional.relu(update) if step < len(self.convs) else update)
        return nodes
