"""The graph field network (GFN) of GeoDiff, conditioned on noise and aware of stereochemistry.

Each layer is the paper's equivariant kernel (eqs. 5-7):

    m_ij = Φ_m(h_i, h_j, ‖x_i − x_j‖², e_ij)
    h_i  ← Φ_h(h_i, Σ_j m_ij)
    x_i  ← Σ_j (x_i − x_j)/d_ij · Φ_x(m_ij)

Here x is the running estimate of the clean structure, so that the distances each layer reads are
those of its predecessor's molecule; the noisy input's distances and directions stay visible
beside it. Beyond the paper, atoms may carry vectors, v_i ← v_i + Σ_j (a_ij (x_i − x_j)/d_ij +
b_ij v_j), whose lengths tell angles and torsions (as in PaiNN, Schütt et al. 2021, eqs. 7-9), and a
parity term tells layers the handedness of specified centres. All of it is equivariant
under rotations and translations, and under a reflection only together with flipped parities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from rdgeodiff.graph import NODE_DIM, PAIR_DIM, MolBatch, node_features
from rdgeodiff.nn.neighbors import DensePairs, EdgePairs, Pairs
from rdgeodiff.nn.vector_terms import StereoTerm, VectorTerm, Volumes, unit_volumes


@dataclass(frozen=True)
class GraphFieldConfig:
    """Size of a `GraphFieldNetwork`.

    Attributes:
        width: channels of a pair message.
        node_width: channels of a node state.
        layers: number of GFN layers.
        radial: number of radial features per distance.
        cutoff: Å (at low noise) beyond which pairs more than three bonds apart do not interact.
        dense_limit: molecules with more atoms take the edge-list path.
        vectors: vectors an atom carries; 0 for the paper's layer.
    """

    width: int = 96
    node_width: int = 160
    layers: int = 6
    radial: int = 32
    cutoff: float = 12.0
    dense_limit: int = 128
    vectors: int = 0


class RadialBasis(nn.Module):
    """Gaussians of log distance from 0.3 to 25 Å: fine at bonds, still telling far away."""

    def __init__(self, count: int, low: float = 0.3, high: float = 25.0) -> None:
        super().__init__()
        # On the CPU, whatever torch's default device: its values are read here.
        first, last = (torch.tensor(edge, device="cpu").log() for edge in (low, high))
        centers = torch.linspace(first, last, count, device="cpu")
        # In units in which a Gaussian is 2^-x².
        self.unit = float(math.sqrt(0.5 * math.log2(math.e)) / (centers[1] - centers[0]))
        self.register_buffer("centers", centers * self.unit, persistent=False)

    def forward(self, squared: torch.Tensor) -> torch.Tensor:
        log_distance = (0.5 * self.unit) * torch.log(squared + 1e-3).unsqueeze(-1)
        offset = log_distance - self.centers
        # Far from its centre a Gaussian is a subnormal number, with which many processors multiply
        # a hundred times slower than with others; 2⁻⁶⁰ is as good as nothing.
        return (offset * offset).neg_().clamp_(min=-60.0).exp2_()


class GraphFieldLayer(nn.Module):
    """One GFN layer over all pairs of a batch."""

    def __init__(self, config: GraphFieldConfig) -> None:
        super().__init__()
        width, node = config.width, config.node_width
        self.norm = nn.LayerNorm(node, elementwise_affine=False)
        self.modulate = nn.Linear(node, 2 * node)
        self.at_i = nn.Linear(node, width)
        self.at_j = nn.Linear(node, width, bias=False)
        self.radial = nn.Linear(config.radial, width, bias=False)
        self.message = nn.Linear(width, width)
        # Per pair: Φ_x along the running and the seen difference, attention, and for each vector
        # the weights of the direction and of the other atom's vector.
        self.collected = 3 + config.vectors
        self.weights = nn.Linear(width, 3 + 2 * config.vectors)
        self.update = nn.Sequential(
            nn.Linear(node + width + config.vectors, 2 * node), nn.SiLU(), nn.Linear(2 * node, node)
        )
        self.stereo = StereoTerm(node)
        self.vectors = VectorTerm(config.vectors, node) if config.vectors else None
        for zeroed in (self.modulate, self.update[2]):
            nn.init.zeros_(zeroed.weight)
            nn.init.zeros_(zeroed.bias)
        nn.init.zeros_(self.weights.weight[:2])
        nn.init.zeros_(self.weights.bias)

    def forward(
        self,
        h: torch.Tensor,
        v: torch.Tensor,
        x: torch.Tensor,
        time: torch.Tensor,
        static: StaticTerm,
        seen: GeometryIn,
        pairs: Pairs,
        batch: MolBatch,
        basis: RadialBasis,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the new node states (B, N, H), the vectors of atoms (B, N, K, 3) and the
        coordinate step (B, N, 3), unscaled."""
        scale, shift = self.modulate(time).unsqueeze(1).chunk(2, -1)
        g = self.norm(h) * (1 + scale) + shift
        difference = pairs.difference(x)
        squared = difference.square().sum(-1)
        at_i = self.at_i(g)
        # A bias in float32 would make all that is added to it float32.
        first = pairs.combine(at_i + static.bias.to(at_i.dtype), self.at_j(g))
        first = _add_product(first, seen.features, static.weight)
        first = _add_product(first, basis(squared), self.radial.weight)
        hidden = functional.hardswish(first, inplace=_in_place())
        m = _linear(self.message, hidden)
        m = functional.hardswish(m, inplace=_in_place())  # Φ_m
        weights = self._weights_of(m)
        gate, carry = weights[2], weights[self.collected :]
        direction = difference * torch.rsqrt(squared + 1e-2).unsqueeze(-1)
        both = torch.cat([direction * seen.envelope.unsqueeze(-1), seen.faded], -1)
        # Of one product: Φ_x along either difference, and what vectors collect of directions.
        sums = pairs.outer_sum(weights[: self.collected], both)
        step = sums[:, :, 0, :3] + sums[:, :, 1, 3:]
        gathered = pairs.weighted_sum(torch.sigmoid(gate) * seen.envelope, m)  # attention
        read = [g, gathered.to(g.dtype) * 0.3]
        pushed = torch.zeros_like(step)
        if seen.volumes is not None:
            views = (unit_volumes(x, batch.centers), seen.volumes)
            told, pushed = self.stereo(g, views, batch)
            read[0] = g + told
        if self.vectors is not None:
            collected = sums[:, :, 3:, :3]
            collected = collected + pairs.carried_sum(carry * seen.envelope, v)
            v, invariants, carried = self.vectors(g, v, collected)
            pushed = pushed + carried
            read.append(invariants.to(g.dtype))
        h = h + self.update(torch.cat(read, -1))  # Φ_h
        return h, v, (step * 0.3 + pushed) * batch.mask.unsqueeze(-1)

    def _weights_of(self, m: torch.Tensor) -> torch.Tensor:
        """(3 + 2K, ...) weights of pairs; those that are summed together lie side by side."""
        weights = self.weights.weight @ m.flatten(0, -2).mT
        weights = weights.float() + self.weights.bias.unsqueeze(-1)
        return weights.unflatten(1, m.shape[:-1])


def _in_place() -> bool:
    """Whether values may be overwritten: half of the time of sampling goes into moving memory."""
    return not torch.is_grad_enabled()


def _add_product(total: torch.Tensor, features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`total` (..., F) + features (..., D) times the transpose of weight (F, D)."""
    flat, rows, columns = total.flatten(0, -2), features.flatten(0, -2), weight.mT
    if not _in_place():
        return torch.addmm(flat, rows, columns).view_as(total)
    # Autocast leaves a product alone that adds to what lies there.
    flat.addmm_(rows.to(total.dtype), columns.to(total.dtype))
    return total


def _linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """The layer's output; without gradients its bias is added last instead of laid out first."""
    if not _in_place():
        return layer(x)
    product = functional.linear(x, layer.weight)
    product += layer.bias.to(product.dtype)
    return product


@dataclass
class StaticTerm:
    """What a layer's messages take of the features in `GeometryIn`: weight (F, D), bias (F,)."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass
class GeometryIn:
    """What the layers read of the graph and the noisy input.

    Attributes:
        features: (..., D) of pairs: of the graph, and of distances.
        envelope: (...) weights of pairs.
        faded: (..., 3) unit differences times `envelope`.
        volumes: of specified centres; None where the batch has none.
    """

    features: torch.Tensor
    envelope: torch.Tensor
    faded: torch.Tensor
    volumes: Volumes | None


class GraphFieldNetwork(nn.Module):
    """F of the preconditioned denoiser D = base + scale · F."""

    def __init__(self, config: GraphFieldConfig) -> None:
        super().__init__()
        self.config = config
        node, width = config.node_width, config.width
        self.basis = RadialBasis(config.radial)
        self.embed = nn.Linear(NODE_DIM, node)
        self.time = nn.Sequential(nn.Linear(16, node), nn.SiLU(), nn.Linear(node, node), nn.SiLU())
        self.pair = nn.Linear(PAIR_DIM + config.radial, config.layers * width)
        self.layers = nn.ModuleList(GraphFieldLayer(config) for _ in range(config.layers))
        noise = torch.linspace(-6.5, 3.0, 16)
        self.register_buffer("noise_centers", noise, persistent=False)

    def forward(
        self,
        batch: MolBatch,
        x_in: torch.Tensor,
        base: torch.Tensor,
        scale: torch.Tensor,
        sigma: torch.Tensor,
        pairs: Pairs | None = None,
        offset: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict F (B, N, 3).

        Args:
            batch: graphs.
            x_in: (B, N, 3) centred noisy positions, scaled to the spread of clean molecules.
            base: (B, N, 3) = c_skip x in Å.
            scale: (B,) = c_out in Å.
            sigma: (B,) noise level in Å.
            pairs: pairs to use; by default dense up to `dense_limit` atoms, edges beyond.
            offset: (B, H) added to the embedding of σ, in training
                (`rdgeodiff.nn.theories`).
        """
        if pairs is None:
            pairs = self.pairs(batch, x_in)
        centered = (sigma.log().unsqueeze(-1) - self.noise_centers) / 0.63
        time = self.time(torch.exp(-0.5 * centered**2))
        if offset is not None:
            time = time + offset
        seen_difference = pairs.difference(x_in)
        squared = seen_difference.square().sum(-1)
        envelope = pairs.envelope(torch.sqrt(squared + 1e-12))
        h = self.embed(node_features(batch.node_codes))
        seen = GeometryIn(
            # Every layer multiplies them in the precision of its products: converted once.
            torch.cat([pairs.features, self.basis(squared)], -1).to(h.dtype),
            envelope,
            seen_difference * (torch.rsqrt(squared + 1e-2) * envelope).unsqueeze(-1),
            unit_volumes(x_in, batch.centers) if batch.parities.shape[1] else None,
        )
        weights = self.pair.weight.chunk(len(self.layers))
        biases = self.pair.bias.chunk(len(self.layers))
        # No views, and in need of gradients, like what later layers get: one compiled layer serves
        # all of them.
        learns = torch.is_grad_enabled() and self.pair.weight.requires_grad
        h = h.clone()
        v = x_in.new_zeros(*x_in.shape[:2], self.config.vectors, 3, requires_grad=learns)
        total = torch.zeros_like(x_in, requires_grad=learns)
        scale = scale.view(-1, 1, 1)
        for layer, weight, bias in zip(self.layers, weights, biases, strict=True):
            h, v, step = layer(
                h,
                v,
                base + scale * total,
                time,
                StaticTerm(weight, bias),
                seen,
                pairs,
                batch,
                self.basis,
            )
            total = total + step
        return total

    def pairs(self, batch: MolBatch, x_in: torch.Tensor) -> Pairs:
        """The pairs this network uses for `batch` by default."""
        if batch.mask.shape[1] <= self.config.dense_limit:
            return DensePairs(batch, self.config.cutoff)
        return EdgePairs(batch, x_in, self.config.cutoff)
