"""Conformers for the eye: grids, notebooks, an animation of the diffusion, a report of a run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdgeodiff.pictures.animation import AnimateDiffusion
    from rdgeodiff.pictures.grid import DrawConformerGrid
    from rdgeodiff.pictures.notebook import ShowConformers

__all__ = ["AnimateDiffusion", "DrawConformerGrid", "ShowConformers"]

_HOMES = {
    "AnimateDiffusion": "rdgeodiff.pictures.animation",
    "DrawConformerGrid": "rdgeodiff.pictures.grid",
    "ShowConformers": "rdgeodiff.pictures.notebook",
}


def __getattr__(name: str) -> Any:
    # Looked up on first use: a report needs none of the drawing packages.
    if name not in _HOMES:
        raise AttributeError(f"module 'rdgeodiff.pictures' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
