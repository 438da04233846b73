"""`rdgeodiff train` and `rdgeodiff export`; neither needs RDKit."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rdgeodiff.commands.common import DONE, add_command, device_of, set_threads


def register(commands: Any) -> None:
    """Add the commands to the parser."""
    train = add_command(commands, "train", run_train)
    train.add_argument("--config", metavar="FILE", help="a TrainConfig as JSON")
    train.add_argument(
        "--from",
        dest="start",
        default="",
        metavar="MODEL",
        help="begin with its weights: fine-tune",
    )
    train.add_argument(
        "--distill",
        type=int,
        default=0,
        metavar="CALLS",
        help="with --from: teach a copy of the model to do with so many network calls",
    )
    train.add_argument(
        "--teacher",
        default="",
        metavar="MODEL",
        help="learn to denoise as this model does, guided as it is",
    )
    train.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="PATH[=SHARE]",
        help="a shard or a folder of shards, instead of those of --config; may be repeated",
    )
    train.add_argument("--validation", action="append", default=[], metavar="SHARD")
    train.add_argument(
        "--steps", type=int, default=0, help="last step; the rate falls in the last half"
    )
    train.add_argument("--rate", type=float, default=0.0, help="peak learning rate")
    train.add_argument("--batch", type=int, default=0, metavar="PAIRS", help="padded atom pairs")
    train.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    train.add_argument("--out", required=True, metavar="DIR", help="an existing run is continued")
    train.add_argument("--minutes", type=float, help="stop after this time (default: at the end)")
    train.add_argument("--device", default="auto")
    train.add_argument("--no-compile", dest="compile", action="store_false")
    train.add_argument(
        "--no-bf16",
        dest="bf16",
        action="store_const",
        const=False,
        help="float32 also where the device computes in bfloat16",
    )

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


def run_train(args: argparse.Namespace) -> int:
    """Train, or continue a run; needs no RDKit."""
    from rdgeodiff.training.loop import Trainer

    set_threads(args.threads)
    trainer = Trainer(
        _config(args),
        args.out,
        device=device_of(args.device),
        compiled=args.compile,
        bf16=args.bf16,
    )
    # Batch systems and `kill` ask to stop this way, and a shell's background job hears no Ctrl-C.
    before = signal.signal(signal.SIGTERM, _interrupt)
    seconds = float("inf") if args.minutes is None else 60.0 * args.minutes
    try:
        trainer.run(max_seconds=seconds, progress=not args.quiet)
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"step {trainer.step}, {trainer.samples} samples, {trainer.skipped} steps skipped")
    return DONE


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _config(args: argparse.Namespace) -> Any:
    """The TrainConfig of --config, of --from and --data, or of both."""
    from rdgeodiff.training.config import TrainConfig
    from rdgeodiff.training.start import fine_tuning, shard_shares
    from rdgeodiff.training.teaching import LEARNING_RATE, distilling

    if not args.config and not (args.start and args.data):
        raise ValueError("name a --config, or a model and shards with --from and --data")
    if args.distill and not args.start:
        raise ValueError("--distill teaches a model: name it with --from")
    if args.teacher and args.distill:
        raise ValueError("--distill has the model of --from for its teacher: leave out --teacher")
    config = None
    if args.config:
        try:
            config = TrainConfig.load(args.config)
        except TypeError as error:
            raise ValueError(f"{args.config}: {error}") from error
    changes: dict[str, Any] = {}
    if args.validation:
        changes["validation"] = args.validation
    if args.steps:
        changes |= {"steps": args.steps, "decay": args.steps // 2}
    if args.rate:
        changes["learning_rate"] = args.rate
    if args.batch:
        changes["pair_budget"] = args.batch
    if args.data:
        changes["shards"] = shard_shares(args.data)
    if args.teacher:
        changes["teacher"] = args.teacher
    if args.start:
        shards = changes.pop("shards", None) or config.shards  # type: ignore[union-attr]
        if not args.distill:
            return fine_tuning(args.start, shards, base=config, **changes)
        if config is None:
            changes.setdefault("learning_rate", LEARNING_RATE)
        return distilling(
            fine_tuning(args.start, shards, base=config, **changes), args.start, args.distill
        )
    assert config is not None
    return dataclasses.replace(config, **changes)


def _sampling(config: Any) -> Any:
    """How a trained denoiser is sampled: a distilled one at the levels it was made for."""
    from rdgeodiff.architectures import Sampling
    from rdgeodiff.checkpoint import load_model
    from rdgeodiff.diffusion.schedule import LEVELS_BELOW, NEAR_SUMMIT

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
    from rdgeodiff.checkpoint import CheckpointError, load_model

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
    from rdgeodiff.checkpoint import save_model
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
