"""rdgeodiff: conformers from diffusion, called like RDKit's ETKDG."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdgeodiff.embed import EmbedMoleculeDiffusion, EmbedMoleculesDiffusion
    from rdgeodiff.parameters import DiffusionEmbedParameters
    from rdgeodiff.results import EmbedResult, FailureCause

__all__ = [
    "DiffusionEmbedParameters",
    "EmbedMoleculeDiffusion",
    "EmbedMoleculesDiffusion",
    "EmbedResult",
    "FailureCause",
]

_HOMES = {
    "DiffusionEmbedParameters": "rdgeodiff.parameters",
    "EmbedMoleculeDiffusion": "rdgeodiff.embed",
    "EmbedMoleculesDiffusion": "rdgeodiff.embed",
    "EmbedResult": "rdgeodiff.results",
    "FailureCause": "rdgeodiff.results",
}


def __getattr__(name: str) -> Any:
    # Looked up on first use: training must import on machines that have no RDKit.
    if name not in _HOMES:
        raise AttributeError(f"module 'rdgeodiff' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
