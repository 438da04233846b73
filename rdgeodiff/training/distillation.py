"""Distillation: a student of fewer calls, or a smaller student.

**Fewer calls** (`StridePairing`): the student takes many of its teacher's steps in one stride. The
noise levels from pure noise to structure are cut into as many segments as the student may make
calls. In each, the teacher follows the deterministic reverse process (the probability flow) in
several steps, from a reference conformer with noise at the segment's upper end; the student learns
the one prediction from which a single DDIM step ends where the teacher ended. Progressive
distillation (Salimans and Ho 2022, appendix G) and multistep consistency models (Heek et al. 2024)
rest on the same target. The teacher may be guided: what guidance gives is then learnt, and costs
nothing any more. A student with enough calls may be an ancestral one: the teacher then goes further
down than the segment, and noise leads back up to its end.

**A smaller network** (`LikenessPairing`): the student learns what its teacher denoises to. Training
on conformers shows one of many structures that could lie under the noise, and what is to be learnt
is their mean. The teacher tells that mean without the scatter (Hinton, Vinyals and Dean 2015), of
molecules of which no good conformer is at hand as well; if it is guided, the student needs no
second network for that (Meng et al. 2023), and its own errors are not multiplied by w + 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist

import torch

from rdgeodiff.checkpoint import load_model
from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.diffusion.objectives import plain_pair
from rdgeodiff.diffusion.schedule import karras_sigmas
from rdgeodiff.diffusion.solvers import advance
from rdgeodiff.geometry import center
from rdgeodiff.graph import MolBatch
from rdgeodiff.model_file import Model
from rdgeodiff.nn.graph_field import GraphFieldNetwork
from rdgeodiff.training.config import TrainConfig

# A student is called at the upper ends of equal parts of a Karras grid down to here. The last call
# settles bonds and angles: from 0.25 Å with four calls, from 0.1 Å with eight.
LOWEST = 0.0342  # Å


def student_levels(calls: int, sigma_max: float = 12.17) -> list[float]:
    """Noise levels in Å at which a student of so many calls is called.

    Raises:
        ValueError: fewer than two calls.
    """
    if calls < 2:
        raise ValueError(f"a student needs at least 2 network calls, not {calls}")
    return [float(s) for s in karras_sigmas(calls + 1, LOWEST, sigma_max, 7.0)[:calls]]


def stride_target(
    teacher: Denoiser, x: torch.Tensor, upper: float, lower: float, inner: int
) -> torch.Tensor:
    """The clean structure (B, N, 3) to predict at `x` so that one DDIM step goes where many led.

    Args:
        teacher: denoiser of the batch.
        x: (B, N, 3) noisy positions in Å, at noise level `upper`.
        upper, lower: ends of the segment in Å; `lower` may be 0.
        inner: steps of the teacher.
    """
    floor = max(lower, 0.01)
    share = [k / inner for k in range(inner + 1)]
    # Evenly spaced in ln σ; a last step from the floor to 0 is the teacher's prediction there.
    levels = [math.exp((1 - s) * math.log(upper) + s * math.log(floor)) for s in share]
    if lower == 0:
        levels[-1] = 0.0
    else:
        levels[-1] = lower
    reached = advance(teacher, x, levels)
    keep = lower / upper
    return (reached - keep * x) / (1.0 - keep)


def share_of(config: TrainConfig, sigma: torch.Tensor) -> float:
    """Where in the distribution of a run's noise levels the first σ of a batch lies, from 0 to 1:
    a number as good as drawn evenly, by which a pairing chooses a level of its own."""
    return NormalDist(config.log_mean, config.log_std).cdf(math.log(float(sigma[0])))


def chosen_by(share: float, segments: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """One of `segments`, each as likely as the others, by a number from 0 to 1."""
    return segments[min(int(share * len(segments)), len(segments) - 1)]


class StridePairing:
    """Makes noisy positions and what the student has to predict of them.

    Args:
        config: a run with a `teacher` and `levels`.
        bf16: the teacher's matrix products in bfloat16.
        device: of the run.

    Raises:
        CheckpointError: no such teacher, or one that is damaged.
        ValueError: levels that do not decrease, or a teacher that is no `GraphFieldNetwork`.
    """

    def __init__(self, config: TrainConfig, *, bf16: bool, device: torch.device) -> None:
        ends = [*config.levels, 0.0]
        if len(ends) < 3 or any(a <= b for a, b in zip(ends, ends[1:], strict=False)):
            raise ValueError(f"levels must be two or more that decrease, not {config.levels}")
        if config.inner_steps < 1:
            raise ValueError(f"inner_steps must be at least 1, not {config.inner_steps}")
        self.teacher = teacher_of(config, device)
        # Where a call has to lead: to the next level, or below it, from where noise leads up again.
        self._segments = [
            (upper, lower**2 / upper if config.ancestral else lower)
            for upper, lower in zip(ends, ends[1:], strict=False)
        ]
        self._inner, self._bf16 = config.inner_steps, bf16
        self._share = functools.partial(share_of, config)

    def level(self, sigma: torch.Tensor, atoms: int) -> torch.Tensor:
        """(B,) the one level of a batch, each as likely as the others, from its first σ."""
        return torch.full_like(sigma, chosen_by(self._share(sigma), self._segments)[0])

    @torch.no_grad()
    def __call__(
        self, graphs: MolBatch, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Centred noisy positions and the student's targets, both (B, N, 3) in Å."""
        upper, lower = min(self._segments, key=lambda s: abs(s[0] - float(sigma[0])))
        clean = center(clean, graphs.mask)
        x = clean + upper * center(noise, graphs.mask)
        teacher = self.teacher.bind(graphs, "dpm_solver_pp_2m", self._bf16)
        return x, stride_target(teacher, x, upper, lower, self._inner)


class LikenessPairing:
    """Makes noisy positions and what the teacher, guided as it is, denoises them to.

    Args:
        config: a run with a `teacher` and without `levels`.
        bf16: the teacher's matrix products in bfloat16.
        device: of the run.

    Raises:
        CheckpointError: no such teacher, or one that is damaged.
        ValueError: a teacher that is no `GraphFieldNetwork`.
    """

    def __init__(self, config: TrainConfig, *, bf16: bool, device: torch.device) -> None:
        self.teacher, self._bf16 = teacher_of(config, device), bf16

    def level(self, sigma: torch.Tensor, atoms: int) -> torch.Tensor:
        """(B,) as drawn: the student is called at all levels."""
        return sigma

    @torch.no_grad()
    def __call__(
        self, graphs: MolBatch, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Centred noisy positions and the student's targets, both (B, N, 3) in Å."""
        x, _ = plain_pair(graphs, clean, noise, sigma)
        teacher = self.teacher.bind(graphs, self.teacher.sampling.sampler, self._bf16)
        return x, teacher(x, sigma)


def teacher_of(config: TrainConfig, device: torch.device) -> Model:
    """The `teacher` of a run; raises as the pairings do."""
    teacher = load_model(config.teacher, device)
    if not isinstance(teacher.network, GraphFieldNetwork):
        raise ValueError(f"{config.teacher}: only a GraphFieldNetwork can be a teacher")
    return teacher
