"""`rdgeodiff export`, which needs no RDKit."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdgeodiff.commands.common import DONE, add_command


def register(commands: Any) -> None:
    """Add the command to the parser."""
    export = add_command(commands, "export", run_export)
    export.add_argument(
        "run_folders",
        nargs="+",
        metavar="RUN",
        help="folder of a training run; of several that began alike, the mean of their weights",
    )
    export.add_argument("stem", help="writes STEM.safetensors and STEM.json")
    export.add_argument(
        "--away",
        action="append",
        default=[],
        metavar="THEORY=SHARE",
        help="step away from a level of theory of the run's config by a share of its offset",
    )
    export.add_argument(
        "--half", action="store_true", help="store float16: half the space, for large networks"
    )


def _sampling(config: Any) -> Any:
    """How a trained denoiser is sampled: a distilled one at the levels it was made for."""
    from rdgeodiff.checkpoint import load_model
    from rdgeodiff.diffusion.schedule import LEVELS_BELOW, NEAR_SUMMIT
    from rdgeodiff.sampling import Sampling

    if config.strides:
        own = load_model(config.teacher).sampling
        return dataclasses.replace(
            own,
            sampler="euler_ancestral_ascent",
            steps=config.strides + LEVELS_BELOW,
            steps_small=0,
            sigma_min=NEAR_SUMMIT,
        )
    if not config.levels:
        return Sampling()
    levels = config.levels
    sampler = "euler_ancestral" if config.ancestral else "ddim"
    return Sampling(sampler, len(levels), sigma_min=levels[-1], sigma_max=levels[0])


def _as_before(config: Any) -> dict[str, Any]:
    """Sampling, guide and finish of the model a run began with: it is drawn as before.

    One that denoises as its teacher does is drawn as that, and what its guide gave has been learnt.
    A student of fewer calls has levels of its own; what finishes a teacher of heavy atoms finishes
    it, too. One that only finishes names its teacher, which draws what it cannot.
    """
    from rdgeodiff.checkpoint import load_model
    from rdgeodiff.model_file import CheckpointError

    example = config.teacher or config.start
    if not example:
        return {}
    try:
        info = load_model(example).info
    except CheckpointError as error:
        print(f"note: the default sampler and no guide: {error}", file=sys.stderr)
        return {}
    kept = {"sampling", "guide", "finish"}
    if config.teacher:
        kept.remove("guide")
    if config.levels or config.strides:
        kept -= {"sampling", "guide"}
    if not config.heavy_atoms:
        kept.remove("finish")
    found = {name: info[name] for name in info if name in kept}
    if config.finishing:
        found["whole"] = {"model": Path(example).stem, "sha256": info["sha256"]}
    return found


@dataclass(frozen=True)
class _FinishedRun:
    """Config, averaged weights and offsets of levels of theory by their names, and counts."""

    config: Any
    weights: dict[str, Any]
    offsets: dict[str, Any]
    meta: dict[str, Any]


def _finished(folder: Path) -> _FinishedRun:
    """The training run in `folder`."""
    from rdgeodiff.nn.theories import names_of
    from rdgeodiff.training.config import TrainConfig
    from rdgeodiff.training.state import load_state

    config = TrainConfig.load(folder / "config.json")
    state = load_state(folder / "state")
    if state is None:
        raise ValueError(f"{folder}: holds no training state")
    tensors, meta = state
    prefix = "average."
    average = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    names = names_of(list(config.theories.values()))
    offsets = dict(zip(names, tensors["theories.offsets"], strict=True)) if names else {}
    return _FinishedRun(config, average, offsets, meta)


def _away(texts: Sequence[str], offsets: Mapping[str, Any]) -> dict[str, float]:
    """Level of theory → share of its offset, of "THEORY=SHARE"."""
    away = {}
    for text in texts:
        name, _, share = text.rpartition("=")
        if name not in offsets:
            known = ", ".join(offsets) or "none"
            raise ValueError(f"--away {text}: levels of theory of this run: {known}")
        away[name] = float(share)
    return away


def run_export(args: argparse.Namespace) -> int:
    """Averaged weights of a run as a model; needs no RDKit."""
    import torch

    from rdgeodiff.architectures import EdgeScoreProcess, FieldProcess, Process, architecture
    from rdgeodiff.model_file import save_model
    from rdgeodiff.nn.graph_field import GraphFieldNetwork
    from rdgeodiff.nn.theories import lead_away

    runs = [_finished(Path(folder)) for folder in args.run_folders]
    first = runs[0]
    config, weights, offsets, meta = first.config, first.weights, first.offsets, first.meta
    for folder, run in zip(args.run_folders, runs, strict=True):
        theirs, ours = ((c.network, c.objective, c.heavy_atoms) for c in (run.config, config))
        if theirs != ours:
            raise ValueError(
                f"{folder}: not of the same network, objective and atoms as the first run"
            )
        if run.offsets.keys() != offsets.keys():
            raise ValueError(f"{folder}: not of the same levels of theory as the first run")
    if len(runs) > 1:
        # Runs that part late end in one basin, and their mean lies lower in it than each
        # (Wortsman et al. 2022, "Model soups").
        weights = {k: torch.stack([run.weights[k] for run in runs]).mean(0) for k in weights}
        offsets = {k: torch.stack([run.offsets[k] for run in runs]).mean(0) for k in offsets}
        meta = {**meta, "mean_of": [{"seed": run.config.seed, **run.meta} for run in runs]}
    network = architecture(config.architecture).network(config.network)
    problems = network.load_state_dict(weights, strict=False)
    # A run keeps parameters only; buffers are constants.
    missing = {name for name, _ in network.named_parameters()} & set(problems.missing_keys)
    if missing or problems.unexpected_keys:
        raise ValueError(f"{args.run_folders[0]}: the state does not fit its config ({problems})")
    if away := _away(args.away, offsets):
        assert isinstance(network, GraphFieldNetwork)  # no other has levels of theory
        offsets = lead_away(network, offsets, away)
        meta = {**meta, "away": away}
    training = json.loads(config.to_json())
    del training["network"]
    # Paths say where data lay on one machine; names say what it was.
    training["shards"] = {Path(p).name: share for p, share in config.shards.items()}
    for name in ("floors", "temperatures", "theories"):
        training[name] = {Path(p).name: value for p, value in training[name].items()}
    training["validation"] = [Path(p).name for p in config.validation]
    training["start"], training["teacher"] = Path(config.start).name, Path(config.teacher).name
    process: Process = FieldProcess(offsets)
    if config.architecture == "DualEncoderEpsNetwork":
        process = EdgeScoreProcess(objective=config.objective)
    info: dict[str, Any] = {"objective": config.objective, "training": {**training, **meta}}
    if config.objective == "aligned":
        # Such a network denoises by itself, whatever its architecture.
        info["sampling"] = dataclasses.asdict(_sampling(config))
    if config.heavy_atoms:
        info["heavy_atoms"] = True
    info |= _as_before(config)
    written = save_model(args.stem, network, info, process, half=args.half)
    print(f"{written} and {written.with_suffix('.safetensors').name}: {meta['samples']} samples")
    return DONE
