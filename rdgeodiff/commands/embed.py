"""`rdgeodiff embed`: a file of molecules in, a file of conformers out."""

from __future__ import annotations

import argparse
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
    embed = add_command(commands, "embed", run_embed)
    embed.add_argument("input", help=".smi, .csv (first column) or .sdf, also .gz")
    embed.add_argument("output", help=".sdf or .sdf.gz, one record per conformer")
    embed.add_argument("-n", type=positive, default=10, help="conformers a molecule (10)")
    embed.add_argument("--seed", type=int, default=-1, help="-1: a new one each time")
    embed.add_argument("--prune", type=float, default=-1.0, metavar="RMSD", help="Å")
    embed.add_argument(
        "--add-hs",
        action=argparse.BooleanOptionalAction,
        help="add hydrogens (default: to SMILES, not to SDF)",
    )
    embed.add_argument("--failed", metavar="FILE", help="table of molecules lacking conformers")
    embed.add_argument("--strict", action="store_true", help="exit 1 if a molecule lacks any")
    add_model_options(embed)


def run_embed(args: argparse.Namespace) -> int:
    """Conformers for every molecule of a file."""
    from rdgeodiff.embed_file import embed_file

    set_threads(args.threads)
    tally = embed_file(
        args.input,
        args.output,
        args.n,
        add_hs=args.add_hs,
        failed=args.failed,
        progress=not args.quiet,
        randomSeed=args.seed,
        pruneRmsThresh=args.prune,
        numThreads=args.threads,
        **model_options(args),
    )
    print(tally.summary())
    if tally.interrupted:
        return INTERRUPTED
    return FAILURES if args.strict and tally.failed else DONE
