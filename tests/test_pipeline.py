"""The stream of batches: what a sample becomes does not depend on its company."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import graph_of, tiny_network

from rdgeodiff import pipeline as pipeline_module
from rdgeodiff.diffusion.samplers import SAMPLERS
from rdgeodiff.graph import MolGraph
from rdgeodiff.model_file import Model
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.results import FailureCause
from rdgeodiff.samples import SampleRequest
from rdgeodiff.sampling import Sampling

SMILES = ("C[C@H](O)[C@@H](F)Cl", "O", "CCO", "c1ccccc1O", "C#N", "[Cl-]")
GRAPHS = [graph_of(s) for s in SMILES]
STEPS = 6

Results = dict[tuple[int, int, int], np.ndarray | FailureCause]


def _model(field: Callable | None = None) -> Model:
    return Model("fake", field or tiny_network(), Sampling(), {})


def _requests(
    count: int = 3, seed: int = 11, graphs: list[MolGraph] = GRAPHS
) -> list[SampleRequest]:
    return [
        SampleRequest(graph, row, conformer, 0, seed)
        for row, graph in enumerate(graphs)
        for conformer in range(count)
    ]


def _draw(pipeline: Pipeline, requests: list[SampleRequest], **how: object) -> Results:
    found: Results = {}

    def keep(request: SampleRequest, result: np.ndarray | FailureCause) -> None:
        key = (request.row, request.conformer, request.attempt)
        assert key not in found, "reported twice"
        found[key] = result

    pipeline.sample(requests, on_result=keep, **how)
    assert len(found) == len(requests), "a request was lost"
    return found


def _same(a: Results, b: Results, tolerance: float = 1e-4) -> bool:
    return a.keys() == b.keys() and all(
        isinstance(a[k], np.ndarray) and np.abs(a[k] - b[k]).max() <= tolerance for k in a
    )


@pytest.fixture(scope="module")
def plain() -> Results:
    return _draw(Pipeline(_model(), steps=STEPS), _requests())


def test_results_are_finite_centred_and_distinct(plain):
    for (row, _, _), positions in plain.items():
        assert positions.shape == (GRAPHS[row].n_atoms, 3)
        assert positions.dtype == np.float64
        assert np.isfinite(positions).all()
        assert np.abs(positions.mean(0)).max() < 1e-4
    assert np.abs(plain[0, 0, 0] - plain[0, 1, 0]).max() > 0.1


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("guided", [False, True])
def test_packing_makes_no_difference(sampler, guided):
    requests = _requests(2)
    results = [
        _draw(
            Pipeline(_model(), batch_pairs=p, sampler=sampler, steps=STEPS), requests, guided=guided
        )
        for p in (1, 300, 100_000)
    ]
    assert _same(results[0], results[1])
    assert _same(results[0], results[2])


def test_order_makes_no_difference(plain):
    requests = _requests()
    order = np.random.default_rng(0).permutation(len(requests))
    for batch_pairs in (300, 0):
        shuffled = Pipeline(_model(), batch_pairs=batch_pairs, steps=STEPS)
        assert _same(_draw(shuffled, [requests[k] for k in order]), plain)


def test_the_first_of_many_equals_the_only_one(plain):
    pipeline = Pipeline(_model(), steps=STEPS)
    one = _draw(pipeline, _requests(1))
    assert _same(one, {k: plain[k] for k in one})
    # Nor does it matter which other molecules are asked for.
    alone = _draw(pipeline, [r for r in _requests() if r.row == 3])
    assert _same(alone, {k: plain[k] for k in alone})


def test_small_molecules_take_fewer_steps():
    """As many as their own size asks for, whatever they are batched with."""
    by_size = Sampling(steps=9, steps_small=3, atoms_small=6, atoms_large=18)
    assert [by_size.steps_for(n) for n in (1, 6, 8, 12, 18, 90)] == [3, 3, 4, 6, 9, 9]
    assert Sampling(steps=9).steps_for(1) == 9
    model = Model("fake", tiny_network(), by_size, {})
    found = _draw(Pipeline(model), _requests())
    for row, graph in enumerate(GRAPHS):
        steps = by_size.steps_for(graph.n_atoms)
        plain = Model("fake", tiny_network(), Sampling(steps=steps), {})
        own = [r for r in _requests() if r.row == row]
        assert _same(_draw(Pipeline(plain), own), {k: v for k, v in found.items() if k[0] == row})
    # A number that is asked for is that of all.
    assert _same(
        _draw(Pipeline(model, steps=STEPS), _requests()),
        _draw(Pipeline(_model(), steps=STEPS), _requests()),
    )


def test_large_molecules_climb_again_and_starts_do_not():
    calls: list[int] = []

    def field(graphs, *inputs: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return network(graphs, *inputs)

    network = tiny_network()
    sampling = Sampling("ancestral_ascent", steps=5, atoms_small=6, atoms_large=12, climbs=5)
    by_size = Model("fake", field, sampling, {})
    plain = dataclasses.replace(by_size, sampling=dataclasses.replace(sampling, climbs=1))
    for row, graph in enumerate(GRAPHS):
        own = [r for r in _requests(1) if r.row == row]
        jumps = sampling.climbs_for(graph.n_atoms) - 1
        made = []
        for pipeline in (Pipeline(plain), Pipeline(by_size), Pipeline(by_size, climbs=1)):
            calls.clear()
            made.append((_draw(pipeline, own), len(calls)))
        assert made[1][1] == made[0][1] + 2 * jumps
        assert made[2][1] == made[0][1] and _same(made[0][0], made[2][0], tolerance=0.0)
        assert (jumps == 0) == _same(made[0][0], made[1][0], tolerance=0.0)
    assert {sampling.climbs_for(graph.n_atoms) for graph in GRAPHS} >= {1, 5}
    assert Pipeline(by_size).sigmas != Pipeline(plain).sigmas
    levels = Pipeline(by_size).starting_at(0.8).sigmas
    assert (np.diff(levels) < 0).all() and set(Pipeline(plain).starting_at(0.8).sigmas) <= set(
        levels
    )


def test_the_same_call_gives_the_same_bits(plain):
    torch.manual_seed(1)
    np.random.seed(1)
    again = _draw(Pipeline(_model(), steps=STEPS), _requests())
    assert _same(again, plain, tolerance=0.0)


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)
    expected = (torch.rand(3), np.random.rand(3))
    torch.manual_seed(5)
    np.random.seed(5)
    _draw(Pipeline(_model(), steps=STEPS), _requests())
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_every_part_of_the_key_makes_its_own_stream():
    graph = GRAPHS[0]
    keys = [(0, 0, 0, 1), (1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1), (0, 0, 0, 2), (0, 0, 0, 2**40)]
    found: list[np.ndarray] = []
    Pipeline(_model(), steps=STEPS).sample(
        [SampleRequest(graph, *key) for key in keys], on_result=lambda _, x: found.append(x)
    )
    for i in range(len(keys)):
        for j in range(i):
            assert np.abs(found[i] - found[j]).max() > 0.1


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
    clean = _draw(Pipeline(_model(), steps=STEPS), _requests(), guided=guided)
    field = PoisonedField(spoiled, value, first_call)
    found = _draw(Pipeline(_model(field), steps=STEPS), _requests(), guided=guided)
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
def test_out_of_memory_halves_and_finishes(plain, error, limit):
    field = SmallMemory(limit, error)
    found = _draw(Pipeline(_model(field), batch_pairs=100_000, steps=STEPS), _requests())
    assert _same(found, plain)
    largest = max(GRAPHS[row].n_atoms for row, _, _ in found)
    together = sum(GRAPHS[row].n_atoms == largest for row, _, _ in found)
    assert field.sizes[0] == together  # all that may share a batch was tried at once
    assert len(field.sizes) <= 4  # and the lesson was remembered


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_neighbours_of_any_size_make_no_difference(precision):
    # In bfloat16 a sum over a longer padded row is rounded differently: 0.01 Å at the end.
    together = _draw(Pipeline(_model(), precision=precision, steps=STEPS), _requests())
    alone = _draw(Pipeline(_model(), batch_pairs=1, precision=precision, steps=STEPS), _requests())
    assert _same(alone, together)


def test_a_models_noise_scale_is_of_its_own_sampler():
    def quiet() -> Model:
        return Model("fake", tiny_network(), Sampling(noise_scale=0.5), {})

    loud, soft = (_draw(Pipeline(m, steps=STEPS), _requests()) for m in (_model(), quiet()))
    assert not _same(loud, soft)
    # "ancestral" adds noise too, but how much of it was not chosen for it.
    others = [
        _draw(Pipeline(m, steps=STEPS, sampler="ancestral"), _requests(1))
        for m in (_model(), quiet())
    ]
    assert _same(*others, tolerance=0.0)


def test_precision_is_checked():
    with pytest.raises(ValueError, match="precision must be auto"):
        Pipeline(_model(), precision="half")


def test_a_single_sample_that_does_not_fit_is_reported():
    limit = GRAPHS[2].n_atoms
    network = tiny_network()

    def field(batch, x_in, base, scale, sigma):
        if batch.mask.shape[1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(batch, x_in, base, scale, sigma)

    found = _draw(Pipeline(_model(field), steps=STEPS), _requests())
    for (row, _, _), result in found.items():
        if GRAPHS[row].n_atoms > limit:
            assert result is FailureCause.OUT_OF_MEMORY
        else:
            assert np.isfinite(result).all()


def test_other_errors_are_not_swallowed():
    def field(*_: object) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        _draw(Pipeline(_model(field), steps=STEPS), _requests())


def test_errors_of_the_receiver_are_not_taken_for_the_models():
    def receive(request: SampleRequest, result: object) -> None:
        raise MemoryError("the caller's own")

    with pytest.raises(MemoryError, match="own"):
        Pipeline(_model(), steps=STEPS).sample(_requests(1), on_result=receive)


def test_a_deadline_in_the_past_attempts_nothing():
    def field(*_: object) -> torch.Tensor:
        raise AssertionError("the network was called")

    found = _draw(
        Pipeline(_model(field), steps=STEPS), _requests(), deadline=time.monotonic() - 1.0
    )
    assert set(found.values()) == {FailureCause.EXCEEDED_TIMEOUT}


def test_a_deadline_is_honoured_between_two_steps(monkeypatch):
    """A clock that advances one second a network call: the time is up within the second batch."""
    network = tiny_network()
    now = [0.0]

    def field(*arguments: torch.Tensor) -> torch.Tensor:
        now[0] += 1.0
        return network(*arguments)

    monkeypatch.setattr(pipeline_module.time, "monotonic", lambda: now[0])
    graph = GRAPHS[0]
    pipeline = Pipeline(_model(field), batch_pairs=2 * graph.n_atoms**2, steps=STEPS)
    found = _draw(pipeline, _requests(6, graphs=[graph]), deadline=STEPS + 2.5)
    finished = [k for k, v in found.items() if isinstance(v, np.ndarray)]
    assert len(finished) == 2  # one batch of two; what was finished is kept
    assert (
        sum(v is FailureCause.EXCEEDED_TIMEOUT for v in found.values() if isinstance(v, str)) == 4
    )
    assert now[0] == STEPS + 3  # and no call was made after the one that overran


def test_a_far_deadline_changes_nothing(plain):
    found = _draw(Pipeline(_model(), steps=STEPS), _requests(), deadline=time.monotonic() + 1e6)
    assert _same(found, plain, tolerance=0.0)


def test_interrupts_keep_finished_work():
    network = tiny_network()
    calls = [0]

    def field(*arguments: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] > STEPS + 1:
            raise KeyboardInterrupt
        return network(*arguments)

    finished: list[np.ndarray] = []
    graph = GRAPHS[0]
    pipeline = Pipeline(_model(field), batch_pairs=2 * graph.n_atoms**2, steps=STEPS)
    with pytest.raises(KeyboardInterrupt):
        pipeline.sample(_requests(6, graphs=[graph]), on_result=lambda _, x: finished.append(x))
    assert len(finished) == 2


@pytest.mark.parametrize("shared", [True, False])
def test_two_threads_at_once(plain, shared):
    model = _model()
    pipelines = [Pipeline(model, batch_pairs=600, steps=STEPS)] * 2
    if not shared:
        pipelines = [Pipeline(model, batch_pairs=600, steps=STEPS) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            found = list(pool.map(lambda p: _draw(p, _requests()), pipelines))
            assert all(_same(f, plain) for f in found)


def test_no_requests():
    assert _draw(Pipeline(_model(), steps=STEPS), []) == {}


def test_default_makes_at_most_25_network_calls():
    network = tiny_network()
    calls = []

    def field(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return network(*arguments)

    _draw(Pipeline(_model(field)), _requests(1, graphs=[GRAPHS[2]]))
    assert 0 < len(calls) <= 25


def test_budget_bounds_the_batches():
    network = tiny_network()
    seen = []

    def field(batch, *rest):
        seen.append(len(batch) * batch.mask.shape[1] ** 2)
        return network(batch, *rest)

    found = _draw(Pipeline(_model(field), batch_pairs=400, steps=1), _requests(8))
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
        Pipeline(_model(), **settings)
