"""Training steps that are recorded once and replayed.

A step of a network of a dozen layers is some thousands of small operations, and an accelerator is
done with each before it has been asked for the next: it idles for three quarters of the time. A
CUDA graph asks for all of them at once. Batches of one size share one, for its tensors have fixed
places; what differs between steps, the batch and the learning rate, is copied there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rdgeodiff.graph import MolBatch


@dataclass
class NoisyBatch:
    """A batch ready for the network: noisy and clean positions (B, N, 3) and σ (B,) in Å, and the
    number (B,) of each molecule's shard."""

    graphs: MolBatch
    noisy: torch.Tensor
    clean: torch.Tensor
    sigma: torch.Tensor
    shard: torch.Tensor

    def tensors(self) -> list[torch.Tensor]:
        """All of its tensors, always in the same order."""
        return [*vars(self.graphs).values(), self.noisy, self.clean, self.sigma, self.shard]

    def clone(self) -> NoisyBatch:
        """A copy in places of its own."""
        rest = (self.noisy, self.clean, self.sigma, self.shard)
        return NoisyBatch(self.graphs.clone(), *(t.clone() for t in rest))


Loss = Callable[[NoisyBatch], torch.Tensor]


class RecordedSteps:
    """Steps of training with a record for each size of a batch.

    Without an accelerator nothing is recorded, and the same operations run one by one.

    Args:
        loss: a batch → mean loss, a scalar; only operations that never wait for the device.
        learnt: parameters; their gradients are held here.
        optimizers: their parameter groups have a learning rate "peak"; those of torch must be
            `capturable`.
        averaged: moving averages, one for each of `live`.
        live: what they are the averages of.
        clip: largest norm of the gradient.
        ema: share of an average that a step keeps.
    """

    def __init__(
        self,
        loss: Loss,
        learnt: Sequence[nn.Parameter],
        optimizers: Sequence[torch.optim.Optimizer],
        averaged: Sequence[torch.Tensor],
        live: Sequence[torch.Tensor],
        *,
        clip: float,
        ema: float,
    ) -> None:
        self._loss = loss
        self.learnt = list(learnt)
        self._optimizers = list(optimizers)
        self._averaged, self._live = list(averaged), [v.detach() for v in live]
        self._clip, self._ema = clip, ema
        device = self.learnt[0].device
        self._cuda = device.type == "cuda"
        self._rate = torch.zeros((), device=device)
        self._value = torch.zeros((), device=device)
        self._before = [torch.zeros_like(p) for p in self.learnt]
        for parameter in self.learnt:
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"]
        self._records: dict[torch.Size, tuple[NoisyBatch, Callable[[], None]]] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._cuda else None
        self._stream = torch.cuda.Stream() if self._cuda else None
        self._update_record: Callable[[], None] | None = None

    @property
    def sizes(self) -> list[torch.Size]:
        """Shapes of the batches that are recorded."""
        return list(self._records)

    def record(self, batch: NoisyBatch) -> None:
        """Record steps on batches of the size of `batch`; no parameter changes."""
        place = batch.clone()

        def work() -> None:
            self._differentiate(place)

        self._records[batch.noisy.shape] = (place, self._recorded(work))
        if self._update_record is None:
            self._rate.zero_()
            self._update_record = self._recorded(self._update)
            self.forget()

    def __call__(self, batch: NoisyBatch, rate: float) -> torch.Tensor:
        """One step at `rate` times the peak learning rates; the loss before it."""
        self._rate.fill_(rate)
        known = self._records.get(batch.noisy.shape)
        if known is None:
            self._differentiate(batch)
        else:
            place, replay = known
            for there, here in zip(place.tensors(), batch.tensors(), strict=True):
                there.copy_(here, non_blocking=True)
            replay()
        (self._update_record or self._update)()
        return self._value.clone()

    def forget(self) -> None:
        """Begin the optimizers anew, their tensors where they are."""
        for optimizer in self._optimizers:
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def _differentiate(self, batch: NoisyBatch) -> None:
        torch._foreach_zero_([p.grad for p in self.learnt])
        loss = self._loss(batch)
        loss.backward()
        self._value.copy_(loss.detach())

    @torch.no_grad()
    def _update(self) -> None:
        nn.utils.clip_grad_norm_(self.learnt, self._clip, foreach=True)
        # A record holds learning rates as they were. Steps are linear in theirs, so the share of
        # the step that is kept does the same.
        torch._foreach_copy_(self._before, self.learnt)
        for optimizer in self._optimizers:
            optimizer.step()
        torch._foreach_sub_(self.learnt, self._before)
        torch._foreach_mul_(self.learnt, self._rate)
        torch._foreach_add_(self.learnt, self._before)
        torch._foreach_lerp_(self._averaged, self._live, 1.0 - self._ema)

    def _recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        if not self._cuda:
            work()
            return work
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            for _ in range(2):  # what is set up at first use cannot be recorded
                work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        torch.cuda.synchronize()
        return graph.replay
