"""Distillation of models that climb (`ancestral_ascent`): fewer calls above the foot, or below it.

Above it a student takes strides as in `rdgeodiff.training.distillation`, and below it denoises as
its teacher does (`AscentPairing`). A whole climb in one call is not worth learning where two
summits may be near: it would show their mean. At the end of all climbs, where only hydrogens and
soft torsions are open, it is (`FinishPairing`).
"""

from __future__ import annotations

import functools
import itertools
import math

import torch

from rdgeodiff.diffusion.objectives import plain_pair
from rdgeodiff.diffusion.schedule import ASCENT, SETTLED, karras_sigmas
from rdgeodiff.graph import MolBatch
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.distillation import chosen_by, share_of, stride_target, teacher_of

CLIMBS_SHARE = 0.4  # of what an `AscentPairing` teaches
TOP_SHARE = 0.6  # of what a `FinishPairing` teaches: the level it is for
LOWEST_FINISH = 0.08  # Å
_NEXT = 0.8  # of a level; what lies higher is no further one


class AscentPairing:
    """Both, for a student of `euler_ancestral_ascent`: strides above the foot that the teacher's
    climbs have with molecules of a size, and what the teacher denoises to from there down.

    Args:
        config: a run with a `teacher` and `strides`, the levels above the foot.
        bf16: the teacher's matrix products in bfloat16.
        device: of the run.

    Raises:
        CheckpointError: no such teacher, or one that is damaged.
        ValueError: a teacher that is no `GraphFieldNetwork` or does not climb itself, or `levels`
            of other students beside the `strides`.
    """

    def __init__(self, config: TrainConfig, *, bf16: bool, device: torch.device) -> None:
        if config.levels or config.strides < 1 or config.inner_steps < 1:
            raise ValueError("strides and inner_steps must be at least 1, and without levels")
        self.teacher = teacher_of(config, device)
        if self.teacher.sampling.sampler != "ancestral_ascent":
            raise ValueError(f"{config.teacher} does not draw with ancestral_ascent")
        self._strides, self._inner, self._bf16 = config.strides, config.inner_steps, bf16
        self._share = functools.partial(share_of, config)

    def segments(self, atoms: int) -> list[tuple[float, float]]:
        """Where strides begin and where they lead in Å, with molecules of so many atoms."""
        own = self.teacher.sampling
        grid = karras_sigmas(self._strides + 1, own.foot_for(atoms), own.sigma_max, own.rho)
        ends = itertools.pairwise(grid[:-1].tolist())
        # Below the next level, from where noise leads up again.
        return [(upper, lower**2 / upper) for upper, lower in ends]

    def level(self, sigma: torch.Tensor, atoms: int) -> torch.Tensor:
        """(B,) the one level of a batch, from its first σ: a stride's, each as likely as the
        others, or any of a climb."""
        share = self._share(sigma)
        if share < CLIMBS_SHARE:
            return torch.full_like(sigma, SETTLED * (ASCENT / SETTLED) ** (share / CLIMBS_SHARE))
        left = (share - CLIMBS_SHARE) / (1.0 - CLIMBS_SHARE)
        return torch.full_like(sigma, chosen_by(left, self.segments(atoms))[0])

    @torch.no_grad()
    def __call__(
        self, graphs: MolBatch, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Centred noisy positions and the student's targets, both (B, N, 3) in Å."""
        x, _ = plain_pair(graphs, clean, noise, sigma)
        teacher = self.teacher.bind(graphs, "dpm_solver_pp_2m", self._bf16)
        level = float(sigma[0])
        if level <= ASCENT:
            return x, teacher(x, sigma)
        # A level between two, as in validation, belongs to the nearer one.
        segments = self.segments(int(graphs.n_atoms.max()))
        upper, lower = min(segments, key=lambda s: abs(math.log(s[0] / level)))
        return x, stride_target(teacher, x, level, lower * level / upper, self._inner)


class FinishPairing:
    """Teaches the last calls of a climb in one.

    From noise at the highest of the `finishing` levels, or at a lower one, the teacher goes uphill
    over those below: once at each, without noise. The student learns where that ends.

    Args:
        config: a run with a `teacher` and `finishing`, decreasing levels in Å.
        bf16: the teacher's matrix products in bfloat16.
        device: of the run.

    Raises:
        CheckpointError: no such teacher, or one that is damaged.
        ValueError: levels that do not decrease or begin below `LOWEST_FINISH`, other settings of
            students beside them, or a teacher that is no `GraphFieldNetwork`.
    """

    def __init__(self, config: TrainConfig, *, bf16: bool, device: torch.device) -> None:
        ends = [*config.finishing, 0.0]
        if any(a <= b for a, b in itertools.pairwise(ends)) or ends[0] <= LOWEST_FINISH:
            raise ValueError(f"finishing must decrease from above {LOWEST_FINISH}, not {ends[:-1]}")
        if config.levels or config.strides:
            raise ValueError("finishing stands alone, without levels or strides")
        self.teacher = teacher_of(config, device)
        self._levels, self._bf16 = list(config.finishing), bf16
        self._share = functools.partial(share_of, config)

    def level(self, sigma: torch.Tensor, atoms: int) -> torch.Tensor:
        """(B,) the one level of a batch, from its first σ: the highest, or any below it."""
        left = max(self._share(sigma) - TOP_SHARE, 0.0) / (1.0 - TOP_SHARE)
        top = self._levels[0]
        return torch.full_like(sigma, top * (LOWEST_FINISH / top) ** left)

    @torch.no_grad()
    def __call__(
        self, graphs: MolBatch, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Centred noisy positions and the student's targets, both (B, N, 3) in Å."""
        x, _ = plain_pair(graphs, clean, noise, sigma)
        teacher = self.teacher.bind(graphs, "ancestral_ascent", self._bf16, 0.0)
        first, found = float(sigma[0]), x
        for level in (first, *(s for s in self._levels if s < _NEXT * first)):
            found = teacher(found, torch.full_like(sigma, level))
        return x, found
