"""What is asked of a model and of whom: requests, their random numbers, and sources of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from rdgeodiff.geometry import HeldAtoms
from rdgeodiff.graph import MolGraph
from rdgeodiff.results import FailureCause


@dataclass(frozen=True)
class SampleRequest:
    """One conformer wanted. Its random stream is a function of the four integers alone.

    Attributes:
        graph: the molecule, or one fragment of it.
        row, conformer, attempt, seed: key of the random stream.
        held: atoms that have to end at given places.
        start: (N, 3) positions in Å to start from instead of pure noise.
    """

    graph: MolGraph
    row: int
    conformer: int
    attempt: int
    seed: int
    held: HeldAtoms | None = None
    start: np.ndarray | None = None


Result = np.ndarray | FailureCause
OnResult = Callable[[SampleRequest, Result], None]


class SampleSource(Protocol):
    """What a call draws from: a `rdgeodiff.pipeline.Pipeline`, or what stands before one."""

    @property
    def device(self) -> torch.device:
        """Where the network runs."""

    @property
    def sigmas(self) -> list[float]:
        """Noise levels in Å."""

    def starting_at(self, sigma: float) -> SampleSource:
        """See `rdgeodiff.pipeline.Pipeline.starting_at`."""

    def sample(
        self,
        requests: Sequence[SampleRequest],
        *,
        on_result: OnResult,
        guided: bool = False,
        deadline: float | None = None,
    ) -> None:
        """See `rdgeodiff.pipeline.Pipeline.sample`."""


def stream_of(request: SampleRequest) -> np.random.Generator:
    """The random numbers a sample is made of."""
    key = [request.seed, request.row, request.conformer, request.attempt]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def further_seed(seed: int, number: int) -> int:
    """A seed for samples that belong to those of `seed` and must not repeat their noise."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 2)
