"""Memory, time, errors and interrupts: one answer to each request, and finished work is kept."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import tiny_network
from pipeline_cases import GRAPHS, STEPS, Results, drawn, model_of, requests_of, same

from rdgeodiff import pipeline as pipeline_module
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.results import FailureCause
from rdgeodiff.samples import SampleRequest


@pytest.fixture(scope="module")
def plain() -> Results:
    return drawn(Pipeline(model_of(), steps=STEPS), requests_of())


class PoisonedField:
    """Spoils the molecules with a given number of atoms, from a given call on."""

    def __init__(self, n_atoms: int, value: float, first_call: int = 0) -> None:
        self.network = tiny_network()
        self.n_atoms, self.value, self.first_call, self.calls = n_atoms, value, first_call, 0

    def __call__(self, batch, x_in, base, scale, sigma):
        field = self.network(batch, x_in, base, scale, sigma).clone()
        if self.calls >= self.first_call:
            field[batch.n_atoms == self.n_atoms, 0] = self.value
        self.calls += 1
        return field


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("first_call", [0, STEPS - 1])
@pytest.mark.parametrize("guided", [False, True])
def test_a_spoiled_molecule_leaves_its_mates_alone(value, first_call, guided):
    spoiled = GRAPHS[2].n_atoms
    assert sum(g.n_atoms == spoiled for g in GRAPHS) == 1
    clean = drawn(Pipeline(model_of(), steps=STEPS), requests_of(), guided=guided)
    field = PoisonedField(spoiled, value, first_call)
    found = drawn(Pipeline(model_of(field), steps=STEPS), requests_of(), guided=guided)
    for key, result in found.items():
        if key[0] == 2:
            assert result is FailureCause.NONFINITE
        else:
            assert np.array_equal(result, clean[key])  # bit for bit


class SmallMemory:
    """Fails as torch does where a batch holds more than `limit` padded pairs."""

    def __init__(self, limit: int, error: Callable[[], BaseException]) -> None:
        self.network = tiny_network()
        self.limit, self.error = limit, error
        self.sizes: list[int] = []

    def __call__(self, batch, x_in, base, scale, sigma):
        if batch.pair_codes[..., 0].numel() > self.limit:
            self.sizes.append(len(batch))
            raise self.error()
        return self.network(batch, x_in, base, scale, sigma)


OUT_OF_MEMORY = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    lambda: RuntimeError("CUDA error: out of memory"),
    MemoryError,
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("limit", [200, 300, 500])
def test_out_of_memory_halves_and_finishes(one_thread, plain, error, limit):
    field = SmallMemory(limit, error)
    found = drawn(Pipeline(model_of(field), batch_pairs=100_000, steps=STEPS), requests_of())
    assert same(found, plain)
    largest = max(GRAPHS[row].n_atoms for row, _, _ in found)
    together = sum(GRAPHS[row].n_atoms == largest for row, _, _ in found)
    assert field.sizes[0] == together  # all that may share a batch was tried at once
    assert len(field.sizes) <= 4  # and the lesson was remembered


def test_precision_is_checked():
    with pytest.raises(ValueError, match="precision must be auto"):
        Pipeline(model_of(), precision="half")


def test_a_single_sample_that_does_not_fit_is_reported():
    limit = GRAPHS[2].n_atoms
    network = tiny_network()

    def field(batch, x_in, base, scale, sigma):
        if batch.mask.shape[1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(batch, x_in, base, scale, sigma)

    found = drawn(Pipeline(model_of(field), steps=STEPS), requests_of())
    for (row, _, _), result in found.items():
        if GRAPHS[row].n_atoms > limit:
            assert result is FailureCause.OUT_OF_MEMORY
        else:
            assert np.isfinite(result).all()


def test_other_errors_are_not_swallowed():
    def field(*_: object) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        drawn(Pipeline(model_of(field), steps=STEPS), requests_of())


def test_errors_of_the_receiver_are_not_taken_for_the_models():
    def receive(request: SampleRequest, result: object) -> None:
        raise MemoryError("the caller's own")

    with pytest.raises(MemoryError, match="own"):
        Pipeline(model_of(), steps=STEPS).sample(requests_of(1), on_result=receive)


def test_a_deadline_in_the_past_attempts_nothing():
    def field(*_: object) -> torch.Tensor:
        raise AssertionError("the network was called")

    found = drawn(
        Pipeline(model_of(field), steps=STEPS), requests_of(), deadline=time.monotonic() - 1.0
    )
    assert set(found.values()) == {FailureCause.EXCEEDED_TIMEOUT}


def test_a_deadline_is_honoured_between_two_steps(one_thread, monkeypatch):
    """A clock that advances one second a network call: the time is up within the second batch."""
    network = tiny_network()
    now = [0.0]

    def field(*arguments: torch.Tensor) -> torch.Tensor:
        now[0] += 1.0
        return network(*arguments)

    monkeypatch.setattr(pipeline_module.time, "monotonic", lambda: now[0])
    graph = GRAPHS[0]
    pipeline = Pipeline(model_of(field), batch_pairs=2 * graph.n_atoms**2, steps=STEPS)
    found = drawn(pipeline, requests_of(6, graphs=[graph]), deadline=STEPS + 2.5)
    finished = [k for k, v in found.items() if isinstance(v, np.ndarray)]
    assert len(finished) == 2  # one batch of two; what was finished is kept
    assert (
        sum(v is FailureCause.EXCEEDED_TIMEOUT for v in found.values() if isinstance(v, str)) == 4
    )
    assert now[0] == STEPS + 3  # and no call was made after the one that overran


def test_a_far_deadline_changes_nothing(plain):
    found = drawn(Pipeline(model_of(), steps=STEPS), requests_of(), deadline=time.monotonic() + 1e6)
    assert same(found, plain, tolerance=0.0)


def test_interrupts_keep_finished_work(one_thread):
    network = tiny_network()
    calls = [0]

    def field(*arguments: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] > STEPS + 1:
            raise KeyboardInterrupt
        return network(*arguments)

    finished: list[np.ndarray] = []
    graph = GRAPHS[0]
    pipeline = Pipeline(model_of(field), batch_pairs=2 * graph.n_atoms**2, steps=STEPS)
    with pytest.raises(KeyboardInterrupt):
        pipeline.sample(requests_of(6, graphs=[graph]), on_result=lambda _, x: finished.append(x))
    assert len(finished) == 2


def test_default_makes_at_most_25_network_calls():
    network = tiny_network()
    calls = []

    def field(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return network(*arguments)

    drawn(Pipeline(model_of(field)), requests_of(1, graphs=[GRAPHS[2]]))
    assert 0 < len(calls) <= 25


def test_budget_bounds_the_batches():
    network = tiny_network()
    seen = []

    def field(batch, *rest):
        seen.append(len(batch) * batch.mask.shape[1] ** 2)
        return network(batch, *rest)

    found = drawn(Pipeline(model_of(field), batch_pairs=400, steps=1), requests_of(8))
    assert len(found) == 8 * len(GRAPHS)
    assert max(seen) <= 400


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "euler"}, "euler"),
        ({"steps": -1}, "-1"),
        ({"sampler": "ancestral", "steps": 6000}, "6000"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Pipeline(model_of(), **settings)
