"""`rdgeodiff screen`: a library of any size in, shards of conformers out."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from rdgeodiff.commands.common import (
    DONE,
    FAILURES,
    INTERRUPTED,
    add_command,
    add_model_options,
    model_options,
    positive,
    set_threads,
)


def register(commands: Any) -> None:
    """Add the command to the parser."""
    screen = add_command(commands, "screen", run_screen)
    screen.add_argument("input", help="a file of molecules, as for embed")
    screen.add_argument("folder", help="gets the shards; one that was begun is continued")
    screen.add_argument("-n", type=positive, default=10, help="conformers a molecule (10)")
    screen.add_argument("--shard", type=positive, default=256, help="molecules a shard (256)")
    screen.add_argument(
        "--rows", type=_slice, default=(0, None), metavar="FIRST:STOP", help="a slice of the input"
    )
    screen.add_argument(
        "--format",
        choices=("sdf.gz", "parquet"),
        default="sdf.gz",
        help="a record per conformer (sdf.gz, default), or a row per molecule",
    )
    screen.add_argument(
        "--ray",
        type=int,
        metavar="WORKERS",
        help="on a Ray cluster; 0: a worker per GPU, or per core. INPUT may be a folder of files",
    )
    screen.add_argument("--seed", type=int, default=-1, help="default: new for a new folder")
    screen.add_argument("--prune", type=float, default=-1.0, metavar="RMSD", help="as in embed")
    screen.add_argument(
        "--add-hs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="add the hydrogens that are missing (default)",
    )
    screen.add_argument("--failed", metavar="FILE", help="table of molecules lacking conformers")
    screen.add_argument("--strict", action="store_true", help="exit 1 if a molecule lacks any")
    add_model_options(screen)


def run_screen(args: argparse.Namespace) -> int:
    """Conformers for a library, shard by shard; run again after a stop, it goes on."""
    from rdgeodiff.screen import ScreenStoppedError, screen_library, write_failed

    if args.failed is not None and not Path(args.failed).parent.is_dir():
        raise FileNotFoundError(f"{args.failed}: there is no folder {Path(args.failed).parent}")
    set_threads(args.threads)
    engine: Any = screen_library
    if args.ray is not None:
        from rdgeodiff.distributed import screen_on_ray

        engine = partial(screen_on_ray, workers=args.ray)
    try:
        report = engine(
            args.input,
            args.folder,
            args.n,
            shard=args.shard,
            rows=args.rows,
            kind=args.format,
            add_hs=args.add_hs,
            progress=not args.quiet,
            randomSeed=args.seed,
            pruneRmsThresh=args.prune,
            numThreads=args.threads,
            **model_options(args),
        )
    except ScreenStoppedError as error:
        # The call was right; the world was not.
        print(f"rdgeodiff: {error}", file=sys.stderr)
        return FAILURES
    if report.resumed:
        print(f"{report.resumed} molecules had been finished before")
    print(report.totals.summary())
    if args.failed is not None:
        write_failed(args.folder, args.failed)
    if report.interrupted:
        print("interrupted: the same call goes on from here")
        return INTERRUPTED
    lacking = report.totals.molecules - report.totals.complete
    return FAILURES if args.strict and lacking else DONE


def _slice(text: str) -> tuple[int, int | None]:
    """Rows "FIRST:STOP" of a library; either may be left out."""
    first, colon, stop = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return int(first or 0), int(stop) if stop else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be FIRST:STOP, not {text}") from None
