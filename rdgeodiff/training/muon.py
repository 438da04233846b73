"""Muon over many matrices at a time.

A network of a dozen layers has seventy small hidden matrices. `torch.optim.Muon` orthogonalises one
after the other, some thirty operations each; an accelerator then waits for the next operation
longer than it computes. Matrices of one shape are stacked here and orthogonalised together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

# Of the Newton-Schulz iteration in `torch.optim.Muon` (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_EPS = 1e-7


class StackedMuon(torch.optim.Optimizer):
    """What `torch.optim.Muon` computes with `adjust_lr_fn="match_rms_adamw"`.

    Args:
        params: matrices.
        lr: learning rate.
        weight_decay: decoupled, as in AdamW.
        momentum: Nesterov's.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step; parameters without a gradient stay."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in alike.items():
                self._step_alike(shape, parameters, group)

    def _step_alike(
        self, shape: torch.Size, parameters: list[torch.Tensor], group: dict[str, Any]
    ) -> None:
        gradients = [p.grad for p in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        moving = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(moving, gradients, 1.0 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, moving, group["momentum"])
        steps = orthogonal(torch.stack(ahead)).to(parameters[0].dtype)
        torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
        rate = 0.2 * max(shape) ** 0.5 * group["lr"]
        torch._foreach_add_(parameters, list(steps.unbind(0)), alpha=-rate)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrices to (K, A, B) ones, about, in bfloat16."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=_EPS).view(-1, 1, 1)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x
