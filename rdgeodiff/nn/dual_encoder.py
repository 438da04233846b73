"""The network of the original GeoDiff release, for checkpoints made with it.

It predicts one scalar per directed edge, in two branches: a global one over all pairs closer than
10 Å and a local one over pairs up to three bonds apart. It reads atomic numbers, edge types and
distances, and neither the noise level nor any stereochemistry: mirror images look the same to it.
`rdgeodiff.convert` brings weights here, `rdgeodiff.diffusion.original_geodiff` samples with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rdgeodiff.nn.atom_graphs import AtomGraphs, Edges
from rdgeodiff.nn.schnet_gin import (
    ATOM_TYPES,
    EdgeEncoder,
    GINEncoder,
    MultiLayerPerceptron,
    SchNetEncoder,
)

# What this network does not offer a choice of; the released configurations say the same.
_FIXED = {"type": "diffusion", "network": "dualenc", "mlp_act": "relu", "edge_encoder": "mlp"}


@dataclass(frozen=True)
class DualEncoderConfig:
    """Size and variant of a `DualEncoderEpsNetwork`.

    Attributes:
        hidden_dim: width of node and edge features.
        num_convs, num_convs_local: blocks of the global and of the local encoder.
        cutoff: Å, of the global branch.
        edge_order: bonds spanned by the longest local edge.
        smooth_conv: fade global messages out towards the cutoff (released for drugs), or cut them
            off there (released for QM9).
        max_neighbors: cap on radius edges as on the GPUs it was trained on; None for none. It bites
            above 33 atoms, see `atom_graphs.radius_edges`.
    """

    hidden_dim: int = 128
    num_convs: int = 6
    num_convs_local: int = 4
    cutoff: float = 10.0
    edge_order: int = 3
    smooth_conv: bool = False
    max_neighbors: int | None = 32

    @staticmethod
    def from_original(model: Mapping[str, Any]) -> DualEncoderConfig:
        """Read the "model" section of an original configuration; ValueError if it is another."""
        for key, value in _FIXED.items():
            if model.get(key) != value:
                raise ValueError(f"model.{key} is {model.get(key)!r}; only {value!r} is known")
        missing = [k for k in DualEncoderConfig.__dataclass_fields__ if k not in model]
        if missing not in ([], ["max_neighbors"]):
            raise ValueError(f"the model configuration lacks {', '.join(missing)}")
        return DualEncoderConfig(
            hidden_dim=int(model["hidden_dim"]),
            num_convs=int(model["num_convs"]),
            num_convs_local=int(model["num_convs_local"]),
            cutoff=float(model["cutoff"]),
            edge_order=int(model["edge_order"]),
            smooth_conv=bool(model["smooth_conv"]),
        )


@dataclass(frozen=True)
class EdgeScores:
    """Output of the network on one geometry.

    Attributes:
        edges: E edges, L of them local.
        of_global: (E,) scalars of the global branch, local edges included; None if not asked for.
        of_local: (L,) scalars of the local branch, in the order of the local edges.
        n_atoms: N.
    """

    edges: Edges
    of_global: torch.Tensor | None
    of_local: torch.Tensor
    n_atoms: int

    def global_field(self, scalars: torch.Tensor | None = None) -> torch.Tensor:
        """(N, 3) coordinate form of the edges that are not local, of `scalars` (E,) if given."""
        scalars = self.of_global if scalars is None else scalars
        if scalars is None:
            raise ValueError("the global branch was not computed")
        keep = ~self.edges.is_local
        return self.edges.select(keep).to_atoms(scalars[keep], self.n_atoms)

    def local_field(self, scalars: torch.Tensor | None = None) -> torch.Tensor:
        """(N, 3) coordinate form of the local edges, of `scalars` (E,) if given."""
        keep = self.edges.is_local
        chosen = self.of_local if scalars is None else scalars[keep]
        return self.edges.select(keep).to_atoms(chosen, self.n_atoms)


class DualEncoderEpsNetwork(nn.Module):
    """SchNet and GIN side by side, sharing one edge encoder.

    `edge_encoder_local` is never used: the original encodes local edges with the global encoder
    too, but its checkpoints carry both.
    """

    def __init__(self, config: DualEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DualEncoderConfig()
        width = config.hidden_dim
        self.edge_encoder_global = EdgeEncoder(width)
        self.edge_encoder_local = EdgeEncoder(width)
        self.encoder_global = SchNetEncoder(
            width, config.num_convs, config.cutoff, config.smooth_conv
        )
        self.encoder_local = GINEncoder(width, config.num_convs_local)
        self.grad_global_dist_mlp = MultiLayerPerceptron(2 * width, [width, width // 2, 1])
        self.grad_local_dist_mlp = MultiLayerPerceptron(2 * width, [width, width // 2, 1])

    def forward(self, graphs: AtomGraphs, x: torch.Tensor, with_global: bool = True) -> EdgeScores:
        """Score the edges of a geometry.

        Args:
            graphs: molecules whose local edges reach `config.edge_order` bonds.
            x: (N, 3) positions in Å, on the same device.
            with_global: False leaves the global branch out (about two thirds of the time).

        Raises:
            ValueError: x is not (N, 3), or an atomic number is outside the embedding.
        """
        self._check(graphs, x)
        edges = Edges.of(graphs, x, self.config.cutoff, self.config.max_neighbors)
        keep = edges.is_local
        local = edges.select(keep)
        scores = None
        if with_global:
            features = self.edge_encoder_global(edges)
            nodes = self.encoder_global(graphs.atom_type, edges, features)
            scores = self.grad_global_dist_mlp(_pair_features(nodes, edges, features)).squeeze(-1)
            features = features[keep]
        else:
            features = self.edge_encoder_global(local)
        nodes = self.encoder_local(graphs.atom_type, local, features)
        of_local = self.grad_local_dist_mlp(_pair_features(nodes, local, features)).squeeze(-1)
        return EdgeScores(edges, scores, of_local, len(x))

    def optimizer_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the global and of the local optimiser, in the original's order."""
        parts = (
            (self.edge_encoder_global, self.encoder_global, self.grad_global_dist_mlp),
            (self.edge_encoder_local, self.encoder_local, self.grad_local_dist_mlp),
        )
        of_global, of_local = (
            list(itertools.chain.from_iterable(module.parameters() for module in modules))
            for modules in parts
        )
        return of_global, of_local

    def _check(self, graphs: AtomGraphs, x: torch.Tensor) -> None:
        if x.shape != (len(graphs.atom_type), 3):
            raise ValueError(f"positions {tuple(x.shape)} for {len(graphs.atom_type)} atoms")
        # Embeddings on a GPU answer a number out of range with a crash of the whole process.
        if len(x) and not 0 <= int(graphs.atom_type.min()) <= int(graphs.atom_type.max()) < (
            ATOM_TYPES
        ):
            raise ValueError(f"atomic numbers must be below {ATOM_TYPES}")


def _pair_features(nodes: torch.Tensor, edges: Edges, features: torch.Tensor) -> torch.Tensor:
    """(E, 2 width): product of the ends' features, then the edge's own."""
    source, target = edges.index
    return torch.cat([nodes[source] * nodes[target], features], -1)
