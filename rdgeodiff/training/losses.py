"""What a training step minimises, and with which optimizers, by architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from rdgeodiff.diffusion.objectives import (
    OBJECTIVES,
    Pairing,
    edge_score_error,
    field_error,
    plain_pair,
)
from rdgeodiff.graph import MolBatch
from rdgeodiff.nn.atom_graphs import AtomGraphs
from rdgeodiff.nn.dual_encoder import DualEncoderEpsNetwork
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.muon import StackedMuon

# (graphs, noisy x, clean x, σ, offset of the embedding of σ or None) → loss (B,)
FieldLoss = Callable[
    [MolBatch, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor
]


def pairing_of(config: TrainConfig) -> Pairing:
    """How noisy and clean positions are made from clean ones and noise."""
    if config.architecture == DualEncoderEpsNetwork.__name__ and config.objective == "chain_rule":
        return plain_pair  # its loss carries distances to coordinates itself
    return OBJECTIVES[config.objective]


def loss_of(network: nn.Module, config: TrainConfig, bf16: bool) -> FieldLoss:
    """The loss of a network.

    A `DualEncoderEpsNetwork` computes in float32 in any case: its sums over edges reach thousands.
    """
    if isinstance(network, DualEncoderEpsNetwork):
        order = network.config.edge_order

        def edge_loss(
            graphs: MolBatch,
            x: torch.Tensor,
            clean: torch.Tensor,
            sigma: torch.Tensor,
            offset: torch.Tensor | None,
        ) -> torch.Tensor:
            atoms = AtomGraphs.from_batch(graphs, order)
            return edge_score_error(network, atoms, graphs, x, clean, sigma, config.objective)

        return edge_loss

    def field_loss(
        graphs: MolBatch,
        x: torch.Tensor,
        clean: torch.Tensor,
        sigma: torch.Tensor,
        offset: torch.Tensor | None,
    ) -> torch.Tensor:
        def field(*inputs: Any) -> torch.Tensor:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                return network(*inputs, offset=offset).float()

        return field_error(field, graphs, x, clean, sigma)

    return field_loss


def optimizers_of(
    network: nn.Module, config: TrainConfig, beside: Iterable[nn.Parameter] = ()
) -> list[torch.optim.Optimizer]:
    """Adam as in the original release for its network; for ours Muon for hidden matrices
    (orthogonalised momentum) and AdamW for everything else, parameters `beside` it included."""
    groups: list[torch.optim.Optimizer]
    if isinstance(network, DualEncoderEpsNetwork):
        # The original has one Adam a branch with the same settings, which comes to the same.
        everything = [*network.parameters(), *beside]
        groups = [torch.optim.Adam(everything, lr=config.learning_rate, betas=(0.95, 0.999))]
    else:
        matrices, others = _split(network)
        others += beside
        groups = [
            _muon(matrices, config.learning_rate),
            torch.optim.AdamW(
                others, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, foreach=True
            ),
        ]
    for optimizer in groups:
        for group in optimizer.param_groups:
            group["peak"] = config.learning_rate
    return groups


def _muon(matrices: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    if matrices[0].device.type == "cuda":  # which would wait for the next of many small operations
        return StackedMuon(matrices, rate, weight_decay=0.01)
    return torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")


def _split(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    matrices, others = [], []
    for name, parameter in network.named_parameters():
        hidden = parameter.ndim == 2 and min(parameter.shape) >= 16 and name.startswith("layers")
        (matrices if hidden else others).append(parameter)
    return matrices, others
