"""rdgeodiff: conformers from diffusion, called like RDKit's ETKDG."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdgeodiff.conformer_properties import (
        MolFromBinaryWithProps,
        MolToBinaryWithProps,
        ReadConformersFromSDF,
        WriteConformersToSDF,
    )
    from rdgeodiff.embed import (
        EmbedConformerDiffusion,
        EmbedMoleculeDiffusion,
        EmbedMoleculesDiffusion,
    )
    from rdgeodiff.frames import (
        AddConformersToFrame,
        ExplodeConformers,
        FrameFromParquet,
        FrameToParquet,
        WriteFrameToSDF,
    )
    from rdgeodiff.parameters import DiffusionEmbedParameters
    from rdgeodiff.pictures.animation import AnimateDiffusion
    from rdgeodiff.pictures.grid import DrawConformerGrid
    from rdgeodiff.pictures.notebook import ShowConformers
    from rdgeodiff.refine import RefineConformersDiffusion, RefineMoleculesDiffusion
    from rdgeodiff.results import EmbedResult, FailureCause

__all__ = [
    "AddConformersToFrame",
    "AnimateDiffusion",
    "DiffusionEmbedParameters",
    "DrawConformerGrid",
    "EmbedConformerDiffusion",
    "EmbedMoleculeDiffusion",
    "EmbedMoleculesDiffusion",
    "EmbedResult",
    "ExplodeConformers",
    "FailureCause",
    "FrameFromParquet",
    "FrameToParquet",
    "MolFromBinaryWithProps",
    "MolToBinaryWithProps",
    "ReadConformersFromSDF",
    "RefineConformersDiffusion",
    "RefineMoleculesDiffusion",
    "ShowConformers",
    "WriteConformersToSDF",
    "WriteFrameToSDF",
]

_HOMES = {
    "AddConformersToFrame": "rdgeodiff.frames",
    "AnimateDiffusion": "rdgeodiff.pictures.animation",
    "DiffusionEmbedParameters": "rdgeodiff.parameters",
    "DrawConformerGrid": "rdgeodiff.pictures.grid",
    "EmbedConformerDiffusion": "rdgeodiff.embed",
    "EmbedMoleculeDiffusion": "rdgeodiff.embed",
    "EmbedMoleculesDiffusion": "rdgeodiff.embed",
    "EmbedResult": "rdgeodiff.results",
    "ExplodeConformers": "rdgeodiff.frames",
    "FailureCause": "rdgeodiff.results",
    "FrameFromParquet": "rdgeodiff.frames",
    "FrameToParquet": "rdgeodiff.frames",
    "MolFromBinaryWithProps": "rdgeodiff.conformer_properties",
    "MolToBinaryWithProps": "rdgeodiff.conformer_properties",
    "ReadConformersFromSDF": "rdgeodiff.conformer_properties",
    "RefineConformersDiffusion": "rdgeodiff.refine",
    "RefineMoleculesDiffusion": "rdgeodiff.refine",
    "ShowConformers": "rdgeodiff.pictures.notebook",
    "WriteConformersToSDF": "rdgeodiff.conformer_properties",
    "WriteFrameToSDF": "rdgeodiff.frames",
}


def __getattr__(name: str) -> Any:
    # Looked up on first use: training must import on machines that have no RDKit.
    if name not in _HOMES:
        raise AttributeError(f"module 'rdgeodiff' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
