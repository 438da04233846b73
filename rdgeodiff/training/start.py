"""Training that begins with the weights of a finished model: fine-tuning, without RDKit."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from rdgeodiff.architectures import FieldProcess
from rdgeodiff.checkpoint import load_model
from rdgeodiff.data.shards import Shard, ShardError, read_shard
from rdgeodiff.model_file import Model
from rdgeodiff.nn.theories import Theories
from rdgeodiff.training.config import TrainConfig

# A trained network forgets at the rate it was trained with.
LEARNING_RATE = 3e-4
WARMUP = 30
EMA = 0.99
# What decides which noise levels a model has seen, and so goes with its weights.
_KEPT = ("objective", "log_mean", "log_std", "max_atoms", "heavy_atoms")


@torch.no_grad()
def begin_with(network: nn.Module, theories: Theories, config: TrainConfig) -> None:
    """Give a fresh `network` and `theories` of `config` what the model `config.start` knows.

    Raises:
        CheckpointError: no such model, or one that is damaged.
        ValueError: a model of another architecture, size or objective; names what differs.
    """
    model = load_model(config.start)
    differences = [
        f"{name} is {theirs!r} there and {ours!r} here"
        for name, theirs, ours in _compared(model, config)
        if theirs != ours
    ]
    if differences:
        raise ValueError(f"{config.start} does not fit: {'; '.join(differences)}")
    theirs = dict(model.network.named_parameters())
    for name, parameter in network.named_parameters():
        parameter.copy_(theirs[name])
    if isinstance(model.process, FieldProcess):
        theories.begin_with(model.process.theories)


def fine_tuning(
    start: str | os.PathLike[str],
    shards: dict[str, float],
    *,
    base: TrainConfig | None = None,
    **changes: object,
) -> TrainConfig:
    """The settings of a run that begins with a model.

    Args:
        start: name or path of the model; its architecture and size are taken over.
        shards: path → share of the samples.
        base: settings that are not the model's; by default a tenth of the usual learning rate and
            the noise levels the model was trained on.
        changes: further attributes of `TrainConfig`.

    Raises:
        CheckpointError: no such model, or one that is damaged.
    """
    model = load_model(start)
    if base is None:
        trained = model.info.get("training", {})
        known = {**trained, **model.info}
        base = TrainConfig(
            shards,
            learning_rate=LEARNING_RATE,
            warmup=WARMUP,
            ema=EMA,
            **{name: known[name] for name in _KEPT if name in known},
        )
    return dataclasses.replace(
        base,
        shards=shards,
        start=os.fspath(start),
        architecture=model.info["architecture"],
        network=model.network.config,
        **changes,
    )


def shard_shares(data: Sequence[str]) -> dict[str, float]:
    """Path → share of the training shards in `data`: files or folders, each with "=SHARE" or 1.

    The shards of a folder divide its share by their molecules; its other files are left alone.

    Raises:
        ShardError: a file that is no shard, or a folder without any.
        ValueError: a share that is not above 0.
    """
    shares: dict[str, float] = {}
    for text in data:
        place, _, number = text.rpartition("=") if "=" in text else (text, "", "1")
        try:
            share = float(number)
        except ValueError:
            place, share = text, 1.0  # a path may hold the sign too
        if not share > 0:
            raise ValueError(f"{text}: a share must be above 0")
        found = _shards_of(Path(place))
        total = sum(len(shard) for shard in found.values())
        for path, shard in found.items():
            shares[path] = shares.get(path, 0.0) + share * len(shard) / total
    return shares


def _shards_of(place: Path) -> dict[str, Shard]:
    if not place.is_dir():
        return {str(place): read_shard(place)}
    found = {}
    for path in sorted(place.glob("*.npz")):
        try:
            found[str(path)] = read_shard(path)
        except ShardError:
            continue  # an archive of conformers beside its shard, say
    if not found:
        raise ShardError(f"{place}: holds no training shards")
    return found


def _compared(model: Model, config: TrainConfig) -> list[tuple[str, object, object]]:
    """(name, value of the model, value of the run) of what has to be equal."""
    rows: list[tuple[str, object, object]] = [
        ("architecture", model.info["architecture"], config.architecture)
    ]
    if rows[0][1] == rows[0][2]:
        theirs, ours = (dataclasses.asdict(c) for c in (model.network.config, config.network))
        # Where a molecule counts as large is a matter of memory, not of what is computed.
        rows += [(k, theirs[k], ours[k]) for k in theirs if k != "dense_limit"]
    trained = {**model.info.get("training", {}), **model.info}.get("objective", "aligned")
    return [*rows, ("objective", trained, config.objective)]
