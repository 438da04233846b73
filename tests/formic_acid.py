"""The one molecule that networks learn here, and how a model draws it."""

from __future__ import annotations

import functools

import numpy as np
from helpers import embedded
from rdkit import Chem

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.model_file import Model
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.samples import SampleRequest

OURS, ORIGINAL = "GraphFieldNetwork", "DualEncoderEpsNetwork"


@functools.cache
def acid() -> Chem.Mol:
    """Formic acid, in which no two atoms are alike."""
    return embedded("OC=O")


def drawn(model: Model, sampler: str = "", steps: int = 0, count: int = 8) -> list[np.ndarray]:
    """Positions of formic acid, as the pipeline draws them."""
    requests = [SampleRequest(featurize(acid()), 0, k, 0, 5) for k in range(count)]
    found: list[np.ndarray] = []
    Pipeline(model, sampler=sampler, steps=steps).sample(
        requests, on_result=lambda _, x: found.append(x)
    )
    return found
