"""The samplers by their kind, and what they start from."""

from __future__ import annotations

import torch
from helpers import embedded, positions_of

from rdgeodiff.diffusion.samplers import SAMPLERS

NAMES = sorted(SAMPLERS)
DETERMINISTIC = ("ddim", "dpm_solver_pp_2m", "heun")
STOCHASTIC = (
    "ancestral",
    "dpm_solver_pp_2m_sde",
    "dpm_solver_pp_2s_ancestral",
    "euler_ancestral",
)
# To a maximum of the density, not to a sample of it.
CLIMBING = ("ancestral_ascent", "dpm_solver_pp_2m_ascent", "euler_ancestral_ascent")


def noise_of(shape: tuple[int, ...], seed: int = 0, centred: bool = True):
    generator = torch.Generator().manual_seed(seed)

    def noise(step: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return drawn - drawn.mean(1, keepdim=True) if centred else drawn

    return noise


def four_conformers() -> torch.Tensor:
    """Four conformers of one molecule, centred."""
    x = torch.from_numpy(positions_of(embedded("CC(=O)Oc1ccccc1", 4)))
    return x - x.mean(1, keepdim=True)
