"""Requests to a pipeline, its answers to all of them, and when two runs have the same ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from helpers import graph_of, tiny_network

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


def model_of(field: Callable | None = None) -> Model:
    return Model("fake", field or tiny_network(), Sampling(), {})


def requests_of(
    count: int = 3, seed: int = 11, graphs: list[MolGraph] = GRAPHS
) -> list[SampleRequest]:
    return [
        SampleRequest(graph, row, conformer, 0, seed)
        for row, graph in enumerate(graphs)
        for conformer in range(count)
    ]


def drawn(pipeline: Pipeline, requests: list[SampleRequest], **how: object) -> Results:
    found: Results = {}

    def keep(request: SampleRequest, result: np.ndarray | FailureCause) -> None:
        key = (request.row, request.conformer, request.attempt)
        assert key not in found, "reported twice"
        found[key] = result

    pipeline.sample(requests, on_result=keep, **how)
    assert len(found) == len(requests), "a request was lost"
    return found


def same(a: Results, b: Results, tolerance: float = 1e-4) -> bool:
    return a.keys() == b.keys() and all(
        isinstance(a[k], np.ndarray) and np.abs(a[k] - b[k]).max() <= tolerance for k in a
    )
