"""Molecules that a denoiser is tried on, and how closely two of its answers must agree."""

from __future__ import annotations

import torch

from rdgeodiff.graph import MolBatch

CENTERS = "C[C@H](O)[C@@H](F)C(=O)N"  # two specified centres
FLAT = "CC(=O)Oc1ccccc1C(=O)O"  # no centre
TOLERANCE = 3e-5  # Å; float32


def levels_of(batch: MolBatch, sigma: float) -> torch.Tensor:
    return torch.full((len(batch),), sigma)
