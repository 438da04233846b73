"""`rdgeodiff dataset`: training data."""

from __future__ import annotations

import argparse
from typing import Any

from rdgeodiff.commands.common import DONE, add_command


def register(commands: Any) -> None:
    """Add the command and its actions to the parser."""
    dataset = commands.add_parser("dataset", help="training data")
    actions = dataset.add_subparsers(required=True, metavar="ACTION")
    featurize = add_command(actions, "featurize", run_featurize)
    featurize.add_argument("archive")
    featurize.add_argument("output", help="shard, .npz")
    counts = add_command(actions, "info", run_dataset_info)
    counts.add_argument("shards", nargs="+", metavar="SHARD")


def run_featurize(args: argparse.Namespace) -> int:
    """An archive of conformers as a training shard."""
    from rdgeodiff.data.conformer_sets import featurize_archive

    count = featurize_archive(args.archive, args.output, progress=not args.quiet)
    print(f"{args.output}: {count} molecules")
    return DONE


def run_dataset_info(args: argparse.Namespace) -> int:
    """Counts of shards."""
    from rdgeodiff.data.shards import read_shard

    for path in args.shards:
        shard = read_shard(path)
        atoms, confs = shard.n_atoms, shard.n_confs.astype(int)
        print(
            f"{path}: {len(shard)} molecules, {confs.sum()} conformers, "
            f"{atoms.min()}-{atoms.max()} atoms (mean {atoms.mean():.1f})"
        )
    return DONE
