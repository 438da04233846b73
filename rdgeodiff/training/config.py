"""Settings of a training run, as one JSON file beside its results."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdgeodiff.nn.graph_field import GraphFieldConfig


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes (except where and for how long it runs).

    Attributes:
        shards: path → share of the training samples.
        validation: paths of shards that are never trained on.
        network: size of the network.
        learning_rate: peak, of the orthogonalised updates' companion (AdamW).
        warmup: steps of linear warm-up.
        decay: steps of linear decay to zero before `steps`; 0 keeps the rate constant, so that the
            run can be continued later.
        steps: last step.
        ema: decay of the averaged weights that are evaluated and shipped.
        pair_budget: padded atom pairs a batch.
        max_atoms: larger molecules are left out of training.
        log_mean, log_std: of the log-normal distribution of σ in Å.
        clip: largest gradient norm.
        seed: of weights, batches and noise.
    """

    shards: dict[str, float]
    validation: list[str] = field(default_factory=list)
    network: GraphFieldConfig = field(default_factory=GraphFieldConfig)
    learning_rate: float = 1e-3
    warmup: int = 500
    decay: int = 0
    steps: int = 1_000_000
    ema: float = 0.999
    pair_budget: int = 40_000
    max_atoms: int = 96
    log_mean: float = -0.7
    log_std: float = 1.6
    clip: float = 1.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at `step`, relative to the peak."""
        warm = min(1.0, (step + 1) / max(self.warmup, 1))
        left = min(1.0, (self.steps - step) / self.decay) if self.decay else 1.0
        return warm * max(left, 0.0)

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Inverse of `to_json`; raises TypeError on unknown names."""
        values: dict[str, Any] = json.loads(text)
        values["network"] = GraphFieldConfig(**values.get("network", {}))
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> TrainConfig:
        """Read a JSON file."""
        return cls.from_json(Path(path).read_text())
