"""Geometries to begin with: from ETKDGv3 at random coordinates, or from a diffusion model."""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom

SEED_SOURCES = ("etkdg", "diffusion")
_ATTEMPTS = 50  # of ETKDG a geometry, so that a cage that cannot be ends


class SeedSource(Protocol):
    """Draws geometries; the same ones for the same molecule, count and seed."""

    def draw(self, mol: Chem.Mol, count: int, seed: int) -> list[np.ndarray]:
        """At most `count` positions (N, 3) in Å of the atoms of `mol`."""
        ...


class EtkdgSeeds:
    """ETKDGv3 from random coordinates, which spread wider than its own beginning."""

    def draw(self, mol: Chem.Mol, count: int, seed: int) -> list[np.ndarray]:
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.useRandomCoords = True
        parameters.maxIterations = _ATTEMPTS
        parameters.numThreads = 1
        # RDKit multiplies the seed by the number of the conformer: 0 would give one geometry.
        parameters.randomSeed = 1 + seed % (2**31 - 2)
        copy = Chem.Mol(mol)
        with rdBase.BlockLogs():
            try:
                # A cage that cannot be is found out once, and not `count` times.
                if rdDistGeom.EmbedMolecule(copy, parameters) < 0:
                    return []
                rdDistGeom.EmbedMultipleConfs(copy, count, parameters)
            except (RuntimeError, ValueError):
                return []  # what RDKit cannot set bounds for
        return [c.GetPositions() for c in copy.GetConformers()]


class DiffusionSeeds:
    """Drawn from a model of this package, one molecule at a time.

    Args:
        model: name or path.
    """

    def __init__(self, model: str = "default") -> None:
        self._model, self._lock = model, threading.Lock()

    def draw(self, mol: Chem.Mol, count: int, seed: int) -> list[np.ndarray]:
        from rdgeodiff.embed import EmbedMoleculeDiffusion

        copy = Chem.Mol(mol)
        with self._lock:
            EmbedMoleculeDiffusion(copy, count, randomSeed=seed, model=self._model)
        return [c.GetPositions() for c in copy.GetConformers()]


def make_seeds(name: str, model: str = "default") -> SeedSource:
    """The source called `name`, one of SEED_SOURCES; raises ValueError for another name."""
    if name not in SEED_SOURCES:
        raise ValueError(f"seeds from {name!r}; known: {', '.join(SEED_SOURCES)}")
    return EtkdgSeeds() if name == "etkdg" else DiffusionSeeds(model)
