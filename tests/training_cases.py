"""Shards and settings for runs of seconds, and what a run has learnt."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers import embedded, positions_of

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.data.shards import Reference, write_shard
from rdgeodiff.nn.graph_field import GraphFieldConfig
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.loop import Trainer

SMALL = ("C", "CO", "C[C@H](F)Cl", "C=C", "CC#N", "C/C=C/F", "O=CO", "CCO")
LARGE = ("CCCCC", "C1CCCC1O", "c1ccccc1C")


def trainer_of(config: TrainConfig, folder: Path) -> Trainer:
    return Trainer(config, folder, compiled=False, bf16=False)


def values_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    values = {f"model.{k}": v.detach().clone() for k, v in trainer.network.named_parameters()}
    return values | {f"average.{k}": v.clone() for k, v in trainer.average.items()}


def same_values(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def two_shards(folder: Path) -> tuple[Path, Path]:
    """A shard of `SMALL` and one of `LARGE`."""
    paths = []
    for name, smiles in (("small", SMALL), ("large", LARGE)):
        mols = [embedded(s, 2) for s in smiles]
        references = [Reference(featurize(m), positions_of(m)) for m in mols]
        paths.append(folder / f"{name}.npz")
        write_shard(paths[-1], references)
    return paths[0], paths[1]


def config_of(shards: tuple[Path, Path]) -> TrainConfig:
    """A few steps of a small network."""
    return TrainConfig(
        shards={str(shards[0]): 2.0, str(shards[1]): 1.0},
        network=GraphFieldConfig(width=16, node_width=16, layers=2, radial=8),
        warmup=2,
        steps=6,
        pair_budget=1000,
        seed=3,
    )
