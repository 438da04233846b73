"""Samples in two stages: heavy atoms out of pure noise, then all atoms out of the last of it.

Where noise is high enough to hide where a hydrogen is, nothing is learnt from drawing it, and three
quarters of the arithmetic go into pairs that hold one. So one network makes the skeleton; hydrogens
are set on it by geometry, and a network of all atoms settles both from a level of noise at which
hydrogens still choose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rdgeodiff.pipeline import Pipeline
from rdgeodiff.results import FailureCause
from rdgeodiff.samples import OnResult, Result, SampleRequest, further_seed
from rdgeodiff.skeleton import Skeleton, skeleton

# Batches of whole molecules that a part of the requests makes: enough for full batches of skeletons
# too, few enough for samples to arrive while there is time left.
PART = 16
SECOND_STAGE = 2  # number of its seed


class HeavyFirst:
    """Draws from one model's heavy atoms and another's last noise levels; a `SampleSource`.

    Args:
        heavy: of a model of skeletons.
        last: of a model of all atoms, from the level on at which hydrogens come in.
        whole: of one that knows all levels, from pure noise on: for samples that have atoms in
            places already, and for molecules without a skeleton.
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
        how: dict[str, Any] = {"guided": guided, "deadline": deadline}
        for part in self._parts(staged):
            self._draw(part, [skeletons[id(r.graph)] for r in part], on_result, **how)
        if direct:
            self._whole.sample(direct, on_result=on_result, **how)

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

    def _draw(
        self,
        requests: list[SampleRequest],
        skeletons: list[Skeleton],
        on_result: OnResult,
        **how: Any,
    ) -> None:
        """Both stages of a part of the requests."""
        bare = {k: dataclasses.replace(r, graph=skeletons[k].graph) for k, r in enumerate(requests)}
        whole: dict[int, SampleRequest] = {}

        def set_hydrogens(k: int, result: Result) -> None:
            request = requests[k]
            if isinstance(result, FailureCause):
                on_result(request, result)
                return
            # Noise of its own: that which the skeleton came from is not to be seen again.
            seed = further_seed(request.seed, SECOND_STAGE)
            rng = np.random.default_rng([seed, request.row, request.conformer, request.attempt])
            start = skeletons[k].with_hydrogens(result, rng)
            whole[k] = dataclasses.replace(request, start=start, seed=seed)

        _sample(self._heavy, bare, set_hydrogens, **how)
        _sample(self._last, whole, lambda k, result: on_result(requests[k], result), **how)


def _sample(
    pipeline: Pipeline,
    requests: dict[int, SampleRequest],
    on_result: Callable[[int, Result], None],
    **how: Any,
) -> None:
    """Draw requests that have numbers; results are reported by these."""
    number = {id(request): k for k, request in requests.items()}
    pipeline.sample(
        list(requests.values()),
        on_result=lambda request, result: on_result(number[id(request)], result),
        **how,
    )
