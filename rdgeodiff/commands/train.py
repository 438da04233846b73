"""`rdgeodiff train`, which needs no RDKit."""

from __future__ import annotations

import argparse
import dataclasses
import signal
from types import FrameType
from typing import Any

from rdgeodiff.commands.common import DONE, add_command, device_of, set_threads


def register(commands: Any) -> None:
    """Add the command to the parser."""
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
