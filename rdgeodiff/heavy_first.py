"""Samples in two stages: heavy atoms out of pure noise, then all atoms out of the last of it.

Where noise is high enough to hide where a hydrogen is, nothing is learnt from drawing it, and three
quarters of the arithmetic go into pairs that hold one. So one network makes the skeleton; hydrogens
are set on it by geometry, and a network of all atoms settles both from a level of noise at which
hydrogens still choose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from rdgeodiff.pipeline import OnResult, Pipeline, Result, SampleRequest
from rdgeodiff.results import FailureCause
from rdgeodiff.skeleton import Skeleton, skeleton

# Batches of whole molecules that a part of the requests makes: enough for full batches of skeletons
# too, few enough for samples to arrive while there is time left.
PART = 16


class HeavyFirst:
    """Draws from one model's heavy atoms and another's last noise levels; a `SampleSource`.

    Args:
        heavy: of a model of skeletons.
        last: of a model of all atoms, from the level on at which hydrogens come in.
        whole: of the same, from pure noise on: for samples that have atoms in places already, and
            for molecules without a skeleton.
    """

    def __init__(self, heavy: Pipeline, last: Pipeline, whole: Pipeline) -> None:
        self._heavy, self._last, self._whole = heavy, last, whole
        self.device = whole.device

    @property
    def sigmas(self) -> list[float]:
        """See `Pipeline.sigmas`."""
        return self._whole.sigmas

    def starting_at(self, sigma: float) -> Pipeline:
        """See `Pipeline.starting_at`: what starts from positions has all its atoms."""
        return self._whole.starting_at(sigma)

    def sample(
        self,
        requests: Sequence[SampleRequest],
        *,
        on_result: OnResult,
        guided: bool = False,
        deadline: float | None = None,
    ) -> None:
        """See `Pipeline.sample`."""
        known = {id(r.graph): r.graph for r in requests if r.held is None and r.start is None}
        skeletons = {key: own for key, graph in known.items() if (own := skeleton(graph))}
        staged: list[SampleRequest] = []
        direct: list[SampleRequest] = []
        for request in requests:
            plain = request.held is None and request.start is None
            (staged if plain and id(request.graph) in skeletons else direct).append(request)
        for part in self._parts(staged):
            of_part = [skeletons[id(request.graph)] for request in part]
            starts = self._starts(part, of_part, on_result, guided, deadline)
            self._settle(part, starts, on_result, guided, deadline)
        if direct:
            self._whole.sample(direct, on_result=on_result, guided=guided, deadline=deadline)

    def _parts(self, requests: list[SampleRequest]) -> Iterator[list[SampleRequest]]:
        """Requests by size, a few batches at a time."""
        waiting = sorted(requests, key=lambda r: r.graph.n_atoms, reverse=True)
        start = filled = 0
        for stop, request in enumerate(waiting):
            filled += request.graph.n_atoms**2
            if filled > PART * self._last.batch_pairs:
                yield waiting[start : stop + 1]
                start, filled = stop + 1, 0
        if waiting[start:]:
            yield waiting[start:]

    def _starts(
        self,
        requests: list[SampleRequest],
        skeletons: list[Skeleton],
        on_result: OnResult,
        guided: bool,
        deadline: float | None,
    ) -> dict[int, np.ndarray]:
        """Positions (N, 3) of all atoms by number of request; failures are reported."""
        asked = [
            dataclasses.replace(request, graph=own.graph)
            for request, own in zip(requests, skeletons, strict=True)
        ]
        number = {id(request): k for k, request in enumerate(asked)}
        starts: dict[int, np.ndarray] = {}

        def set_hydrogens(request: SampleRequest, result: Result) -> None:
            k = number[id(request)]
            if isinstance(result, FailureCause):
                on_result(requests[k], result)
            else:
                key = [_second_stream(request), request.row, request.conformer, request.attempt]
                starts[k] = skeletons[k].with_hydrogens(result, np.random.default_rng(key))

        self._heavy.sample(asked, on_result=set_hydrogens, guided=guided, deadline=deadline)
        return starts

    def _settle(
        self,
        requests: list[SampleRequest],
        starts: dict[int, np.ndarray],
        on_result: OnResult,
        guided: bool,
        deadline: float | None,
    ) -> None:
        asked = {
            k: dataclasses.replace(requests[k], start=start, seed=_second_stream(requests[k]))
            for k, start in starts.items()
        }
        number = {id(request): k for k, request in asked.items()}

        def report(request: SampleRequest, result: Result) -> None:
            on_result(requests[number[id(request)]], result)

        self._last.sample(list(asked.values()), on_result=report, guided=guided, deadline=deadline)


def _second_stream(request: SampleRequest) -> int:
    """A seed of the second stage's own: the noise a skeleton came from is not to be seen again."""
    return int(np.random.SeedSequence([request.seed, 2]).generate_state(1, np.uint64)[0] >> 2)
