"""`rdgeodiff dataset`: training data."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from rdgeodiff.commands.common import DONE, FAILURES, add_command, positive
from rdgeodiff.commands.dataset_build import register_build

CONFGF = "confgf"


def register(commands: Any) -> None:
    """Add the command and its actions to the parser."""
    dataset = commands.add_parser("dataset", help="training data")
    actions = dataset.add_subparsers(required=True, metavar="ACTION")
    featurize = add_command(actions, "featurize", run_featurize)
    featurize.add_argument("archive")
    featurize.add_argument("output", help="shard, .npz")
    featurize.add_argument(
        "--hydrogens-anew",
        type=int,
        default=0,
        metavar="N",
        help="N copies of each conformer, hydrogens set on its heavy atoms anew: for `finishing`",
    )
    geom = add_command(actions, "geom", run_geom)
    geom.add_argument("source", help="GEOM's rdkit_folder, or a preprocessed .pkl of GeoDiff")
    geom.add_argument("folder", help="files are written here; a run that was stopped goes on")
    geom.add_argument("--set", choices=("qm9", "drugs"), default="", help="part of an rdkit_folder")
    geom.add_argument(
        "--split", default="", help=f"{CONFGF}: drawn as in the paper; or an .npy or .json file"
    )
    geom.add_argument(
        "--part", choices=("train", "val", "test"), default="train", help="of --split"
    )
    geom.add_argument("--write-split", metavar="FILE", help="names of all parts, .json")
    geom.add_argument("--kind", choices=("shard", "archive"), default="shard")
    geom.add_argument(
        "--conformers",
        type=int,
        metavar="N",
        help=f"the N of largest weight; 0: all (default: 5 for {CONFGF}'s train and val, else 0)",
    )
    geom.add_argument("--least", type=positive, default=1, metavar="N", help="skip with fewer")
    geom.add_argument("--max-atoms", type=int, default=0, metavar="N", help="skip larger molecules")
    geom.add_argument("--limit", type=int, default=0, metavar="K", help="only the first K names")
    register_build(actions)
    counts = add_command(actions, "info", run_dataset_info)
    counts.add_argument("files", nargs="+", metavar="FILE", help="archives, shards or .sdf")
    counts.add_argument("--out", metavar="FILE", help="the same as JSON")
    counts.add_argument("--plot", metavar="FILE", help="distributions, .png or .svg")
    counts.add_argument("--strict", action="store_true", help="exit 1 if two files share a graph")


def run_featurize(args: argparse.Namespace) -> int:
    """An archive of conformers as a training shard."""
    from rdgeodiff.data.conformer_sets import featurize_archive

    if args.hydrogens_anew < 0:
        raise ValueError(f"--hydrogens-anew must not be negative, not {args.hydrogens_anew}")
    count = featurize_archive(
        args.archive, args.output, hydrogens_anew=args.hydrogens_anew, progress=not args.quiet
    )
    print(f"{args.output}: {count} molecules")
    return DONE


def run_geom(args: argparse.Namespace) -> int:
    """GEOM, official or preprocessed, as training shards or evaluation archives."""
    from rdgeodiff.data.geom import open_source
    from rdgeodiff.data.geom_build import build_geom

    if args.write_split and not args.split:
        raise ValueError("--write-split needs --split")
    source = open_source(args.source, args.set)
    names = _split_names(args, source) if args.split else list(source.names)
    conformers = args.conformers
    if conformers is None:
        conformers = 5 if args.split == CONFGF and args.part != "test" else 0
    report = build_geom(
        source,
        args.folder,
        names[: args.limit or None],
        stem=args.part if args.split else "part",
        kind=args.kind,
        conformers=conformers,
        least=args.least,
        max_atoms=args.max_atoms,
        progress=not args.quiet,
    )
    print(f"{args.folder}: {report.summary()}")
    return DONE


def _split_names(args: argparse.Namespace, source: Any) -> list[str]:
    """Names of the chosen part of the chosen split."""
    from rdgeodiff.data.geom import GeomFolder
    from rdgeodiff.data.geom_splits import PARTS, confgf_split, read_split, write_split

    if args.split == CONFGF:
        if not (isinstance(source, GeomFolder) and source.summary):
            raise ValueError(f"--split {CONFGF} needs an rdkit_folder with its summary")
        split = confgf_split(source.summary, source.dataset)
    else:
        listed = source.sorted_names() if isinstance(source, GeomFolder) else source.names
        parts = PARTS if args.write_split else (args.part,)
        split = {part: read_split(args.split, part, listed) for part in parts}
    if args.write_split:
        write_split(args.write_split, split)
    return split[args.part]


def run_dataset_info(args: argparse.Namespace) -> int:
    """What data sets are made of, and what they share: a table, on request JSON and a plot."""
    from rdgeodiff.datasets.plots import plot_spreads, require_matplotlib
    from rdgeodiff.datasets.spread import find_leaks, read_facts
    from rdgeodiff.datasets.tables import markdown

    if args.plot:
        require_matplotlib()
    sets = [read_facts(path, progress=not args.quiet) for path in args.files]
    leaks = find_leaks(sets)
    print(markdown(sets, leaks), end="")
    if args.out:
        data = {
            "sets": [facts.to_dict() for facts in sets],
            "leaks": [dataclasses.asdict(leak) for leak in leaks],
        }
        Path(args.out).write_text(json.dumps(data, indent=1) + "\n")
    if args.plot:
        plot_spreads(sets, args.plot)
    return FAILURES if args.strict and any(leak.shared for leak in leaks) else DONE
