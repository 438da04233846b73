"""`rdgeodiff dataset fragments`, `build` and `export`: data of one's own."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rdgeodiff.commands.common import DONE, INTERRUPTED, add_command, positive


def register_build(actions: Any) -> None:
    """Add the actions to those of `rdgeodiff dataset`."""
    build = add_command(actions, "build", run_build)
    build.add_argument("input", metavar="SMILES", help="a file of molecules, as for embed")
    build.add_argument("folder", metavar="OUT", help="a build that was stopped goes on")
    build.add_argument("--conformers", type=positive, default=5, metavar="N", help="at most (5)")
    build.add_argument("--seeds", type=int, default=0, metavar="N", help="default: 3 times as many")
    build.add_argument("--seeds-from", choices=("etkdg", "diffusion"), default="etkdg")
    build.add_argument("--model", default="default", help="of --seeds-from diffusion")
    build.add_argument("--gfnff", action="store_true", help="GFN-FF before the final method")
    build.add_argument(
        "--straight",
        action="store_true",
        help="no force field first: keeps minima that one lacks, and takes longer",
    )
    build.add_argument(
        "--method",
        choices=("gfn2", "gfn1", "gfnff", "mmff94s"),
        default="gfn2",
        help="of the final geometries and energies; mmff94s needs no xtb (gfn2)",
    )
    build.add_argument(
        "--choose",
        choices=("spread", "lowest"),
        default="spread",
        help="conformers far from each other, or the lowest ones (spread)",
    )
    build.add_argument(
        "--level",
        choices=("crude", "sloppy", "loose", "normal", "tight", "verytight"),
        default="normal",
        help="xtb's thresholds of the final optimisation (normal)",
    )
    build.add_argument("--solvent", default="", help="ALPB solvent; default: the gas phase")
    build.add_argument(
        "--window", type=float, default=6.0, metavar="E", help="kcal/mol above the lowest (6)"
    )
    build.add_argument(
        "--metadynamics",
        type=float,
        default=0.0,
        metavar="PS",
        help="also start from snapshots of biased GFN-FF runs of this length",
    )
    build.add_argument("--runs", type=positive, default=3, help="of --metadynamics (3)")
    build.add_argument("--max-heavy-atoms", type=int, default=0, metavar="N", help="0: any")
    _add_exclude(build)
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--jobs", type=int, default=0, help="molecules at a time; 0: one a core")
    build.add_argument("--budget", type=float, metavar="HOURS", help="begin none after this time")
    build.add_argument("--timeout", type=float, default=600.0, metavar="S", help="a calculation")
    fragments = add_command(actions, "fragments", run_fragments)
    fragments.add_argument("input", metavar="SMILES", help="a file of molecules, as for embed")
    fragments.add_argument("output", metavar="OUT", help="SMILES, one a line")
    fragments.add_argument(
        "--max-heavy-atoms", type=positive, default=17, metavar="N", help="of a fragment (17)"
    )
    _add_exclude(fragments)
    fragments.add_argument("--seed", type=int, default=0)
    export = add_command(actions, "export", run_export)
    export.add_argument("folder", help="of a build, finished or not")
    export.add_argument("--archive", metavar="FILE", help="default: FOLDER/conformers.npz")
    export.add_argument("--shard", metavar="FILE", help="default: FOLDER/shard.npz")
    export.add_argument(
        "--least", type=positive, default=1, metavar="N", help="leave out molecules with fewer"
    )


def _add_exclude(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="FILE",
        help="leave out these molecules, compared without stereo: an archive, or molecules",
    )


def run_build(args: argparse.Namespace) -> int:
    """SMILES to conformers with energies, by default GFN2-xTB's (needs xtb), and a shard."""
    from rdgeodiff.datasets.build import build_dataset
    from rdgeodiff.datasets.export import export_dataset
    from rdgeodiff.datasets.recipe import Recipe

    names = [field.name for field in dataclasses.fields(Recipe)]
    values = {name: getattr(args, name) for name in names}
    values["seeds"] = args.seeds or 3 * args.conformers
    report = build_dataset(
        args.input,
        args.folder,
        Recipe(**values),
        max_heavy_atoms=args.max_heavy_atoms,
        exclude=args.exclude,
        budget=float("inf") if args.budget is None else args.budget,
        jobs=args.jobs,
        timeout=args.timeout,
        progress=not args.quiet,
    )
    written = export_dataset(args.folder)
    if report.resumed:
        print(f"{report.resumed} molecules had been settled before")
    print(report.totals.summary())
    print(f"{args.folder}: {written.molecules} molecules, {written.conformers} conformers")
    if report.unfinished:
        print("not finished: the same call goes on from here")
    return INTERRUPTED if report.interrupted else DONE


def run_fragments(args: argparse.Namespace) -> int:
    """Small molecules with the rotatable bonds of large ones, to build conformers of."""
    from rdkit import Chem

    from rdgeodiff.chem.readers import read_molecules
    from rdgeodiff.datasets.fragments import choose_fragments
    from rdgeodiff.datasets.molecules import graph_keys

    counts = {"read": 0, "not molecules": 0}

    def molecules() -> Iterator[Chem.Mol]:
        for record in read_molecules(args.input, add_hs=False):
            counts["read"] += 1
            if record.mol is None:
                counts["not molecules"] += 1
            else:
                yield Chem.RemoveHs(record.mol)

    chosen = choose_fragments(
        molecules(),
        largest=args.max_heavy_atoms,
        excluded=graph_keys(args.exclude),
        seed=args.seed,
    )
    Path(args.output).write_text("".join(f"{smiles}\n" for smiles in chosen))
    print(
        f"{args.output}: {len(chosen)} fragments of {counts['read']} records, "
        f"{counts['not molecules']} of them not molecules"
    )
    return DONE


def run_export(args: argparse.Namespace) -> int:
    """What a build has settled so far, as an archive and a shard; the build may go on meanwhile."""
    from rdgeodiff.datasets.export import export_dataset

    written = export_dataset(args.folder, args.archive, args.shard, least=args.least)
    print(
        f"{args.folder}: {written.molecules} molecules, {written.conformers} conformers; "
        f"{written.failures} molecules without"
    )
    return DONE
