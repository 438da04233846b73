"""Batches at once give what they give one after the other, and leave nothing running behind."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from helpers import tiny_network, torch_threads
from pipeline_cases import GRAPHS, STEPS, Results, drawn, model_of, requests_of, same

from rdgeodiff.pipeline import Pipeline
from rdgeodiff.results import FailureCause
from rdgeodiff.side_by_side import WORTH_A_THREAD, evenly, side_by_side

CORES = 3


@pytest.fixture(autouse=True)
def several_threads():
    with torch_threads(CORES):
        yield
        assert torch.get_num_threads() == CORES
        assert not [t for t in threading.enumerate() if t.name.startswith("rdgeodiff")]


def one_by_one() -> Results:
    with torch_threads(1):
        return drawn(Pipeline(model_of(), steps=STEPS), requests_of())


class Crowd:
    """A network that notes how many call it at once, and each caller's threads."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.network, self.error = tiny_network(), error
        self.inside = self.most = 0
        self.threads: set[int] = set()
        self.lock = threading.Lock()

    def __call__(self, *arguments: torch.Tensor) -> torch.Tensor:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.threads.add(torch.get_num_threads())
        try:
            time.sleep(0.02)
            if self.error is not None and self.inside > 1:
                raise self.error("out of memory")
            return self.network(*arguments)
        finally:
            with self.lock:
                self.inside -= 1


@pytest.mark.parametrize("batch_pairs", [1, 300, 0])
def test_batches_at_once_are_those_one_by_one(batch_pairs):
    crowd = Crowd()
    found = drawn(Pipeline(model_of(crowd), batch_pairs=batch_pairs, steps=STEPS), requests_of())
    assert same(found, one_by_one())
    assert 2 <= crowd.most <= CORES
    assert crowd.threads == {1}  # cores are shared out, not asked for twice


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_what_does_not_fit_beside_others_is_drawn_alone(error):
    crowd = Crowd(error)
    assert same(drawn(Pipeline(model_of(crowd), steps=STEPS), requests_of()), one_by_one())


def test_an_error_of_one_batch_ends_the_others():
    calls = []
    network = tiny_network()

    def field(batch, *rest):
        calls.append(batch.mask.shape[1])
        if batch.mask.shape[1] == max(g.n_atoms for g in GRAPHS):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        time.sleep(0.02)
        return network(batch, *rest)

    pipeline = Pipeline(model_of(field), batch_pairs=1, steps=STEPS)
    with pytest.raises(RuntimeError, match="mat1"):
        drawn(pipeline, requests_of(20))
    assert len(calls) < 5 * CORES  # of several hundred


def test_an_interrupt_ends_all_within_a_step():
    calls = []
    network = tiny_network()

    def field(*arguments):
        calls.append(1)
        time.sleep(0.01)
        return network(*arguments)

    def receive(request, result):
        calls.clear()
        raise KeyboardInterrupt

    pipeline = Pipeline(model_of(field), batch_pairs=1, steps=200)
    with pytest.raises(KeyboardInterrupt):
        pipeline.sample(requests_of(20), on_result=receive)
    assert len(calls) <= 2 * CORES


def test_batches_that_are_done_in_time_are_kept():
    slow = max(g.n_atoms for g in GRAPHS)
    network = tiny_network()

    def field(batch, *rest):
        if batch.mask.shape[1] == slow:
            time.sleep(1.0)
        return network(batch, *rest)

    pipeline = Pipeline(model_of(field), steps=STEPS)
    found = drawn(pipeline, requests_of(), deadline=time.monotonic() + 2.0)
    for (row, _, _), result in found.items():
        if GRAPHS[row].n_atoms == slow:
            assert result is FailureCause.EXCEEDED_TIMEOUT
        else:
            assert isinstance(result, np.ndarray)


def test_results_come_in_order_while_jobs_run():
    jobs = [lambda k=k: (time.sleep(0.03 * (5 - k)), k)[1] for k in range(5)]
    with side_by_side(jobs, CORES, threading.Event()) as outcomes:
        assert [outcome() for outcome in outcomes] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cores", [1, 2, 3, 16])
@pytest.mark.parametrize("cost", [100, 1_600, 5_776, 40_000])
@pytest.mark.parametrize("count", [1, 2, 5, 10, 11, 100])
def test_samples_are_shared_out_evenly(count, cost, cores):
    fewest = 2
    most = max(fewest, 16_000 // cost)
    sizes = evenly(count, fewest, most, cost, cores)
    assert sum(sizes) == count and max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    needed = -(-count // most)
    if len(sizes) > needed:
        assert len(sizes) <= -(-needed // cores) * cores
        assert min(sizes) >= fewest and count * cost >= len(sizes) * WORTH_A_THREAD
