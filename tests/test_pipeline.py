"""The stream of batches: what a sample becomes does not depend on its company."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import tiny_network
from pipeline_cases import GRAPHS, STEPS, Results, drawn, model_of, requests_of, same

from rdgeodiff.diffusion.samplers import SAMPLERS
from rdgeodiff.model_file import Model
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.samples import SampleRequest
from rdgeodiff.sampling import Sampling


@pytest.fixture(scope="module")
def plain() -> Results:
    return drawn(Pipeline(model_of(), steps=STEPS), requests_of())


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
    requests = requests_of(2)
    results = [
        drawn(
            Pipeline(model_of(), batch_pairs=p, sampler=sampler, steps=STEPS),
            requests,
            guided=guided,
        )
        for p in (1, 300, 100_000)
    ]
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_order_makes_no_difference(plain):
    requests = requests_of()
    order = np.random.default_rng(0).permutation(len(requests))
    for batch_pairs in (300, 0):
        shuffled = Pipeline(model_of(), batch_pairs=batch_pairs, steps=STEPS)
        assert same(drawn(shuffled, [requests[k] for k in order]), plain)


def test_the_first_of_many_equals_the_only_one(plain):
    pipeline = Pipeline(model_of(), steps=STEPS)
    one = drawn(pipeline, requests_of(1))
    assert same(one, {k: plain[k] for k in one})
    # Nor does it matter which other molecules are asked for.
    alone = drawn(pipeline, [r for r in requests_of() if r.row == 3])
    assert same(alone, {k: plain[k] for k in alone})


def test_small_molecules_take_fewer_steps():
    """As many as their own size asks for, whatever they are batched with."""
    by_size = Sampling(steps=9, steps_small=3, atoms_small=6, atoms_large=18)
    assert [by_size.steps_for(n) for n in (1, 6, 8, 12, 18, 90)] == [3, 3, 4, 6, 9, 9]
    assert Sampling(steps=9).steps_for(1) == 9
    model = Model("fake", tiny_network(), by_size, {})
    found = drawn(Pipeline(model), requests_of())
    for row, graph in enumerate(GRAPHS):
        steps = by_size.steps_for(graph.n_atoms)
        plain = Model("fake", tiny_network(), Sampling(steps=steps), {})
        own = [r for r in requests_of() if r.row == row]
        assert same(drawn(Pipeline(plain), own), {k: v for k, v in found.items() if k[0] == row})
    # A number that is asked for is that of all.
    assert same(
        drawn(Pipeline(model, steps=STEPS), requests_of()),
        drawn(Pipeline(model_of(), steps=STEPS), requests_of()),
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
        own = [r for r in requests_of(1) if r.row == row]
        jumps = sampling.climbs_for(graph.n_atoms) - 1
        made = []
        for pipeline in (Pipeline(plain), Pipeline(by_size), Pipeline(by_size, climbs=1)):
            calls.clear()
            made.append((drawn(pipeline, own), len(calls)))
        assert made[1][1] == made[0][1] + 2 * jumps
        assert made[2][1] == made[0][1] and same(made[0][0], made[2][0], tolerance=0.0)
        assert (jumps == 0) == same(made[0][0], made[1][0], tolerance=0.0)
    assert {sampling.climbs_for(graph.n_atoms) for graph in GRAPHS} >= {1, 5}
    assert Pipeline(by_size).sigmas != Pipeline(plain).sigmas
    levels = Pipeline(by_size).starting_at(0.8).sigmas
    assert (np.diff(levels) < 0).all() and set(Pipeline(plain).starting_at(0.8).sigmas) <= set(
        levels
    )


def test_the_same_call_gives_the_same_bits(plain):
    torch.manual_seed(1)
    np.random.seed(1)
    again = drawn(Pipeline(model_of(), steps=STEPS), requests_of())
    assert same(again, plain, tolerance=0.0)


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)
    expected = (torch.rand(3), np.random.rand(3))
    torch.manual_seed(5)
    np.random.seed(5)
    drawn(Pipeline(model_of(), steps=STEPS), requests_of())
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_every_part_of_the_key_makes_its_own_stream():
    graph = GRAPHS[0]
    keys = [(0, 0, 0, 1), (1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1), (0, 0, 0, 2), (0, 0, 0, 2**40)]
    found: list[np.ndarray] = []
    Pipeline(model_of(), steps=STEPS).sample(
        [SampleRequest(graph, *key) for key in keys], on_result=lambda _, x: found.append(x)
    )
    for i in range(len(keys)):
        for j in range(i):
            assert np.abs(found[i] - found[j]).max() > 0.1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_neighbours_of_any_size_make_no_difference(precision):
    # In bfloat16 a sum over a longer padded row is rounded differently: 0.01 Å at the end.
    together = drawn(Pipeline(model_of(), precision=precision, steps=STEPS), requests_of())
    alone = drawn(
        Pipeline(model_of(), batch_pairs=1, precision=precision, steps=STEPS), requests_of()
    )
    assert same(alone, together)


def test_a_models_noise_scale_is_of_its_own_sampler():
    def quiet() -> Model:
        return Model("fake", tiny_network(), Sampling(noise_scale=0.5), {})

    loud, soft = (drawn(Pipeline(m, steps=STEPS), requests_of()) for m in (model_of(), quiet()))
    assert not same(loud, soft)
    # "ancestral" adds noise too, but how much of it was not chosen for it.
    others = [
        drawn(Pipeline(m, steps=STEPS, sampler="ancestral"), requests_of(1))
        for m in (model_of(), quiet())
    ]
    assert same(*others, tolerance=0.0)


@pytest.mark.parametrize("shared", [True, False])
def test_two_threads_at_once(plain, shared):
    model = model_of()
    pipelines = [Pipeline(model, batch_pairs=600, steps=STEPS)] * 2
    if not shared:
        pipelines = [Pipeline(model, batch_pairs=600, steps=STEPS) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            found = list(pool.map(lambda p: drawn(p, requests_of()), pipelines))
            assert all(same(f, plain) for f in found)


def test_no_requests():
    assert drawn(Pipeline(model_of(), steps=STEPS), []) == {}
