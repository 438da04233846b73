"""Settings of a training run, as one JSON file beside its results."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdgeodiff.architectures import architecture
from rdgeodiff.diffusion.objectives import OBJECTIVES


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes (except where and for how long it runs).

    Attributes:
        shards: path → share of the training samples.
        validation: paths of shards that are never trained on.
        architecture: key of `rdgeodiff.architectures.ARCHITECTURES`.
        objective: key of `rdgeodiff.diffusion.objectives.OBJECTIVES`.
        network: size of the network, of the architecture's own kind.
        learning_rate: peak, of the orthogonalised updates' companion (AdamW).
        warmup: steps of linear warm-up.
        decay: steps of linear decay to zero before `steps`; 0 keeps the rate constant, so that the
            run can be continued later.
        steps: last step.
        ema: decay of the averaged weights that are evaluated and shipped.
        pair_budget: padded atom pairs a batch.
        max_atoms: larger molecules are left out of training.
        log_mean, log_std: of the log-normal distribution of σ in Å.
        floors: path of a shard → lowest σ in Å it is used at, for geometries of a cheap method.
        temperature: R T in kcal/mol at which the conformers of a molecule are drawn, where a shard
            knows their energies; 0 for conformers that are equally likely.
        temperatures: path of a shard → its own `temperature`.
        theories: path of a shard → name of a level of theory that differs from the one the model is
            made for; see `rdgeodiff.nn.theories`.
        clip: largest gradient norm.
        seed: of weights, batches and noise.
        start: name or path of a model whose weights the run begins with; "" for random ones.
        teacher: name or path of a model to distil (see `rdgeodiff.training.distillation`); "" for
            training on the objective.
        levels: noise levels in Å at which a student of few calls is called; empty for a student
            that learns to denoise as its teacher does, at every level.
        strides: of a student of a teacher that is sampled with `ancestral_ascent`: levels above its
            foot, one call each; it is sampled with `euler_ancestral_ascent`. 0 for other students.
        finishing: levels in Å over which the teacher climbs to the end, of a student that does so
            in one call from the highest; empty for other students.
        inner_steps: of the teacher between two levels.
        ancestral: the student is sampled with `euler_ancestral`, which adds noise after each call,
            and not with `ddim`.
        heavy_atoms: train on molecules without their hydrogens, for a model that draws skeletons
            (`rdgeodiff.heavy_first`); its teacher may be one of all atoms.
    """

    shards: dict[str, float]
    validation: list[str] = field(default_factory=list)
    architecture: str = "GraphFieldNetwork"
    objective: str = "aligned"
    network: Any = None
    learning_rate: float = 1e-3
    warmup: int = 500
    decay: int = 0
    steps: int = 1_000_000
    ema: float = 0.999
    pair_budget: int = 40_000
    max_atoms: int = 96
    log_mean: float = -0.7
    log_std: float = 1.6
    floors: dict[str, float] = field(default_factory=dict)
    temperature: float = 0.0
    temperatures: dict[str, float] = field(default_factory=dict)
    theories: dict[str, str] = field(default_factory=dict)
    clip: float = 1.0
    seed: int = 0
    start: str = ""
    teacher: str = ""
    levels: list[float] = field(default_factory=list)
    strides: int = 0
    finishing: list[float] = field(default_factory=list)
    inner_steps: int = 4
    ancestral: bool = False
    heavy_atoms: bool = False

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            known = ", ".join(OBJECTIVES)
            raise ValueError(f"unknown objective {self.objective!r}; known: {known}")
        if (self.levels or self.strides or self.finishing) and not self.teacher:
            raise ValueError("levels, strides and finishing are a student's; no teacher is named")
        for name in ("floors", "temperatures", "theories"):
            if unknown := getattr(self, name).keys() - self.shards.keys():
                raise ValueError(f"{name} name {sorted(unknown)}, which are not among the shards")
        if min([self.temperature, *self.temperatures.values(), *self.floors.values()]) < 0:
            raise ValueError("temperature and floors must not be negative")
        if self.heavy_atoms and self.architecture != "GraphFieldNetwork":
            raise ValueError("heavy_atoms is for a GraphFieldNetwork")
        if self.theories and (self.teacher or self.architecture != "GraphFieldNetwork"):
            raise ValueError("theories are for a GraphFieldNetwork that learns from conformers")
        size = architecture(self.architecture).config
        if self.network is None:
            object.__setattr__(self, "network", size())
        if not isinstance(self.network, size):
            kind = type(self.network).__name__
            raise ValueError(f"{self.architecture} takes a {size.__name__}, not a {kind}")

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
        """Inverse of `to_json`; raises TypeError on unknown names, ValueError on unknown values.

        What is left out has its default value.
        """
        values: dict[str, Any] = json.loads(text)
        size = architecture(values.get("architecture", cls.architecture)).config
        values["network"] = size(**values.get("network", {}))
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> TrainConfig:
        """Read a JSON file."""
        return cls.from_json(Path(path).read_text())
