"""Models by name, with the others that they name.

A model's JSON may name a worse model that guides it, one that finishes what it draws, or one that
draws what it cannot. All are of one folder or shipped, and sealed by the SHA-256 of their weights.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from pathlib import Path
from typing import Any

import torch

from rdgeodiff.diffusion.autoguidance import Guidance
from rdgeodiff.model_file import CheckpointError, Model, locate, read_model


def load_model(
    name: str | os.PathLike[str] = "default", device: str | torch.device = "cpu"
) -> Model:
    """Load and verify a model.

    Args:
        name: "default", a shipped name, or the path of a JSON or safetensors file.
        device: where the network will run.

    Raises:
        CheckpointError: unknown name, missing or altered file, wrong keys or shapes.
    """
    description = locate(name)
    return _complete(read_model(description, device), description, device)


def _complete(model: Model, description: Path, device: str | torch.device) -> Model:
    """A model with those that its description names."""
    parts: dict[str, Any] = {}
    if "guide" in model.info:
        parts["guide"] = _guide(model.info["guide"], description, device)
    if "finish" in model.info:
        if not model.heavy_atoms:
            raise CheckpointError(f"{description}: a model of all atoms needs no other to finish")
        parts["finish"] = _finish(model.info["finish"], description, device)
    if "whole" in model.info:
        parts["whole"] = _whole(model.info["whole"], description, device)
    return dataclasses.replace(model, **parts)


def _guide(entry: Any, description: Path, device: str | torch.device) -> tuple[Model, Guidance]:
    """The guide a description names."""
    model, _, settings = _part("guide", entry, description, device)
    if "guide" in model.info:
        raise CheckpointError(f"{description}: its guide {model.name!r} has a guide of its own")
    try:
        return model, Guidance(**settings)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{description}: does not describe its guide ({error})") from error


def _finish(
    entry: Any, description: Path, device: str | torch.device
) -> tuple[Model, tuple[float, ...]]:
    """The model of all atoms a description names, and its levels."""
    model, path, settings = _part("finish", entry, description, device)
    if model.heavy_atoms:
        raise CheckpointError(f"{description}: {model.name!r} knows heavy atoms alone")
    try:
        levels = tuple(float(level) for level in settings.pop("levels"))
        ends = (math.inf, *levels, 0.0)
        if settings or not levels or not all(a > b for a, b in itertools.pairwise(ends)):
            raise ValueError("levels must decrease and be above 0, and stand alone")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{description}: does not describe its finish ({error})") from error
    return _complete(model, path, device), levels


def _whole(entry: Any, description: Path, device: str | torch.device) -> Model:
    """The model of all levels of noise a description names."""
    model, path, settings = _part("whole", entry, description, device)
    if settings or model.heavy_atoms or "whole" in model.info:
        raise CheckpointError(f"{description}: {model.name!r} cannot be what it is a part of")
    return _complete(model, path, device)


def _part(
    role: str, entry: Any, description: Path, device: str | torch.device
) -> tuple[Model, Path, dict[str, Any]]:
    """A model that a description names, from its own folder or among the shipped ones, the path of
    its own description and the rest of the entry."""
    try:
        settings = dict(entry)
        name, sealed = str(settings.pop("model")), settings.pop("sha256")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{description}: does not describe its {role} ({error})") from error
    if name != Path(name).name:
        raise CheckpointError(f"{description}: its {role} must be a name, not {name!r}")
    beside = description.with_name(f"{name}.json")
    path = beside if beside.exists() else locate(name)
    model = read_model(path, device)
    if model.info["sha256"] != sealed:
        raise CheckpointError(
            f"{description}: the model {name!r} is not the {role} it was made with"
        )
    return model, path, settings
