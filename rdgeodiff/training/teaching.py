"""Which pairing teaches a student, by the config of its run."""

from __future__ import annotations

import dataclasses

import torch

from rdgeodiff.checkpoint import load_model
from rdgeodiff.diffusion.schedule import LEVELS_BELOW
from rdgeodiff.training.climbing import AscentPairing, FinishPairing
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.distillation import LikenessPairing, StridePairing, student_levels

# With so many calls noise is worth adding back after each: it mends what the call before left wrong
# (benchmarks/TRAINING.md, "What a student can reach").
ANCESTRAL_FROM = 6
# A student begins as its teacher, and yet has further to go than a fine-tuned model.
LEARNING_RATE = 1e-3

Teaching = StridePairing | AscentPairing | FinishPairing | LikenessPairing


def teaching(config: TrainConfig, *, bf16: bool, device: torch.device) -> Teaching:
    """What the `teacher` of a run teaches; raises as the four classes do."""
    kind: type[Teaching] = LikenessPairing
    if config.finishing:
        kind = FinishPairing
    elif config.strides:
        kind = AscentPairing
    elif config.levels:
        kind = StridePairing
    return kind(config, bf16=bf16, device=device)


def distilling(config: TrainConfig, teacher: str, calls: int) -> TrainConfig:
    """A run as in `config`, a fine-tuning of `teacher`, turned into its distillation.

    A model of heavy atoms, which climbs, gets a student that makes so many calls and climbs again
    as often as it does.

    Raises:
        CheckpointError: no such teacher, or one that is damaged.
        ValueError: fewer than two calls, or three where there are climbs.
    """
    levels = student_levels(calls)
    if load_model(teacher).sampling.sampler == "ancestral_ascent" and config.heavy_atoms:
        strides = calls - LEVELS_BELOW
        if strides < 1:
            raise ValueError(f"a student that climbs needs at least {LEVELS_BELOW + 1} calls")
        return dataclasses.replace(config, teacher=teacher, strides=strides)
    return dataclasses.replace(
        config, teacher=teacher, levels=levels, ancestral=calls >= ANCESTRAL_FROM
    )
