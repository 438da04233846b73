"""How conformers are drawn from a model unless the caller says otherwise, and at which levels."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from rdgeodiff.diffusion.schedule import (
    ASCENT,
    REHEAT,
    ascent_sigmas,
    karras_sigmas,
    revisited,
    stride_sigmas,
    subset,
)

# Samplers that walk the T steps of the schedule, or some of them, and not a grid of their own.
_ON_SCHEDULE = ("ancestral", "langevin")
# Those that climb from a foot that depends on a molecule's size, and may do so again.
_CLIMBING = {"ancestral_ascent": ascent_sigmas, "euler_ancestral_ascent": stride_sigmas}

LARGE = sys.maxsize  # atoms of a molecule that takes all of a model's steps


@dataclass(frozen=True)
class Sampling:
    """How conformers are drawn from a model unless the caller says otherwise.

    Attributes:
        sampler: name of a sampler.
        steps: noise levels visited.
        steps_small: of molecules of up to `atoms_small` atoms, which need fewer; between those and
            the ones of at least `atoms_large`, which take `steps`, in proportion. 0: all alike.
        sigma_min, sigma_max: Å; rho: of the Karras grid.
        foot, foot_small: Å, where `ancestral_ascent` and `euler_ancestral_ascent` begin to climb,
            with large molecules and with small ones as above; at most
            `rdgeodiff.diffusion.schedule.ASCENT`.
        climbs: how often they climb, with large molecules; small ones as above need it once. `ddim`
            visits one level so often.
        reheat: Å, from where they climb again; not above the foot. With `ddim` the level is the
            last one that is not lower.
        noise_scale: of the noise this sampler adds in its steps. A network that has not learnt
            everything blurs what it has; less noise than theory asks for sharpens it again, at the
            cost of diversity (as low temperatures do).
    """

    sampler: str = "dpm_solver_pp_2m_sde"
    steps: int = 25
    sigma_min: float = 0.01
    sigma_max: float = 12.17
    rho: float = 7.0
    noise_scale: float = 1.0
    steps_small: int = 0
    atoms_small: int = 0
    atoms_large: int = 0
    foot: float = ASCENT
    foot_small: float = ASCENT
    climbs: int = 1
    reheat: float = REHEAT

    def steps_for(self, n_atoms: int) -> int:
        """Noise levels visited for a molecule of so many atoms."""
        if not self.steps_small:
            return self.steps
        return round(self._between(self.steps_small, self.steps, n_atoms))

    def foot_for(self, n_atoms: int) -> float:
        """Where the ascent begins for a molecule of so many atoms."""
        return self._between(self.foot_small, self.foot, n_atoms)

    def climbs_for(self, n_atoms: int) -> int:
        """How often a molecule of so many atoms is climbed."""
        return round(self._between(1, self.climbs, n_atoms))

    def _between(self, small: float, large: float, n_atoms: int) -> float:
        if n_atoms >= self.atoms_large:
            return large
        share = max(n_atoms - self.atoms_small, 0) / (self.atoms_large - self.atoms_small)
        return small + share * (large - small)


def levels_of(
    schedule: np.ndarray, sampling: Sampling, sampler: str, steps: int, atoms: int
) -> list[float]:
    """Noise levels in Å that a sampler visits, with 0 at the end.

    Args:
        schedule: (T,) levels in Å of the noise schedule, for samplers that walk it.
        sampling: a model's settings.
        sampler: by name; the model's own may take fewer steps with small molecules.
        steps: how many levels; 0 for the default.
        atoms: of the molecule.
    """
    default = len(schedule) if sampler == "langevin" else sampling.steps
    count = steps or (sampling.steps_for(atoms) if sampler == sampling.sampler else default)
    if sampler in _CLIMBING:
        return _CLIMBING[sampler](
            count,
            sampling.sigma_min,
            sampling.sigma_max,
            sampling.rho,
            foot=sampling.foot_for(atoms),
            climbs=sampling.climbs_for(atoms),
            reheat=sampling.reheat,
        ).tolist()
    if sampler in _ON_SCHEDULE:
        return subset(schedule, count).tolist()
    grid = karras_sigmas(count, sampling.sigma_min, sampling.sigma_max, sampling.rho)
    if sampler == "ddim":
        grid = revisited(grid, sampling.climbs_for(atoms), sampling.reheat)
    return grid.tolist()
