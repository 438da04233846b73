"""From the parameters of a call to what its samples are drawn from."""

from __future__ import annotations

import functools

import torch

from rdgeodiff.checkpoint import load_model
from rdgeodiff.heavy_first import HeavyFirst
from rdgeodiff.model_file import Model
from rdgeodiff.parameters import DiffusionEmbedParameters
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.samples import SampleSource


def open_source(settings: DiffusionEmbedParameters) -> SampleSource:
    """The model of a call on its device, drawn from as the call says.

    Raises:
        CheckpointError: no such model, or one that is damaged.
        ValueError: a model of heavy atoms or of the last of the noise alone, or what `Pipeline`
            refuses.
    """
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = shared_model(settings.model, device)

    def pipeline(of: Model) -> Pipeline:
        return Pipeline(
            of,
            device,
            settings.batchPairs,
            settings.sampler,
            settings.steps,
            settings.precision,
            settings.guidanceWeight,
            settings.stretch,
            settings.climbs,
        )

    if model.whole is not None:
        raise ValueError(
            f"the model {model.name!r} only finishes what others have drawn; "
            f"take {model.whole.name!r}"
        )
    if not model.heavy_atoms:
        return pipeline(model)
    if model.finish is None:
        raise ValueError(f"the model {model.name!r} knows heavy atoms alone, and none to finish")
    finish, levels = model.finish
    last = Pipeline(finish, device, settings.batchPairs, precision=settings.precision)
    assert model.complete is not None  # as there is a finish
    return HeavyFirst(pipeline(model), last.on_levels(levels), pipeline(model.complete))


@functools.lru_cache(maxsize=4)
def shared_model(name: str, device: str) -> Model:
    """A model that stays loaded, so that a loop over molecules reads and hashes the file once."""
    return load_model(name, device)
