"""DiffusionEmbedParameters: names, values, JSON, and RDKit's own object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rdkit.Chem import rdDistGeom

from rdgeodiff import DiffusionEmbedParameters


def test_shared_names_have_rdkits_defaults():
    ours, theirs = DiffusionEmbedParameters(), rdDistGeom.ETKDGv3()
    for name in (
        "randomSeed clearConfs pruneRmsThresh onlyHeavyAtomsForRMS useSymmetryForPruning "
        "symmetrizeConjugatedTerminalGroupsForPruning enforceChirality maxIterations timeout "
        "trackFailures numThreads"
    ).split():
        assert getattr(ours, name) == getattr(theirs, name), name


def test_unknown_attribute_is_refused_in_rdkits_words():
    params = DiffusionEmbedParameters()
    with pytest.raises(AttributeError, match="Cannot set unknown attribute 'foo'"):
        params.foo = 1
    with pytest.raises(AttributeError, match="'randomseed'"):
        params.updated(randomseed=1)


def test_json_goes_both_ways():
    params = DiffusionEmbedParameters(randomSeed=7, pruneRmsThresh=0.5, sampler="heun", timeout=1.5)
    assert DiffusionEmbedParameters.fromJSON(params.toJSON()) == params
    assert DiffusionEmbedParameters.fromJSON('{"steps": 9}').steps == 9
    with pytest.raises(AttributeError, match="'stepz'"):
        DiffusionEmbedParameters.fromJSON('{"stepz": 9}')
    with pytest.raises(ValueError):
        DiffusionEmbedParameters.fromJSON("[1]")
    with pytest.raises(ValueError):
        DiffusionEmbedParameters.fromJSON("no json")


def test_updated_leaves_the_original():
    params = DiffusionEmbedParameters(randomSeed=7)
    assert params.updated(randomSeed=8).randomSeed == 8
    assert params.randomSeed == 7


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("randomSeed", -2, ValueError),
        ("randomSeed", "7", TypeError),
        ("randomSeed", 1.5, TypeError),
        ("maxIterations", -1, ValueError),
        ("timeout", -1, ValueError),
        ("timeout", float("nan"), ValueError),
        ("steps", -5, ValueError),
        ("batchPairs", True, TypeError),
        ("precision", "half", ValueError),
        ("clearConfs", "yes", TypeError),
        ("clearConfs", 2, TypeError),
        ("pruneRmsThresh", None, TypeError),
        ("model", 3, TypeError),
    ],
)
def test_bad_values_are_refused_with_their_name(name, value, error):
    with pytest.raises(error, match=name):
        DiffusionEmbedParameters(**{name: value})


def test_values_become_plain_types():
    params = DiffusionEmbedParameters(
        randomSeed=np.int64(3), clearConfs=0, pruneRmsThresh=1, model=Path("a/b.json")
    )
    assert type(params.randomSeed) is int
    assert params.clearConfs is False
    assert type(params.pruneRmsThresh) is float
    assert params.model == str(Path("a/b.json"))


def test_rdkits_object_is_taken_over():
    theirs = rdDistGeom.ETKDGv3()
    theirs.randomSeed, theirs.pruneRmsThresh, theirs.numThreads = 42, 0.3, 0
    theirs.clearConfs, theirs.maxIterations, theirs.useRandomCoords = False, 4, True
    ours = DiffusionEmbedParameters.from_rdkit(theirs)
    assert (ours.randomSeed, ours.pruneRmsThresh, ours.numThreads) == (42, 0.3, 0)
    assert (ours.clearConfs, ours.rounds) == (False, 4)


def test_failure_counts_are_not_part_of_the_values():
    params = DiffusionEmbedParameters()
    assert params.GetFailureCounts() == {}
    params.record_failures({"CLASH": 2})
    assert params.GetFailureCounts() == {"CLASH": 2}
    assert params == DiffusionEmbedParameters()
    assert params.updated(steps=3).GetFailureCounts() == {}
