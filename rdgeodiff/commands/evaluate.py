"""`rdgeodiff evaluate`: COV and MAT beside ETKDGv3."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rdgeodiff.commands.common import (
    DONE,
    INTERRUPTED,
    add_command,
    add_model_options,
    add_other_models,
    model_options,
    positive,
    set_threads,
    version,
)


def register(commands: Any) -> None:
    """Add the command to the parser."""
    evaluate = add_command(commands, "evaluate", run_evaluate)
    kinds = "archive or shard (.npz), .sdf, GEOM's rdkit_folder or a preprocessed .pkl"
    evaluate.add_argument("archives", nargs="*", metavar="FILE", help=f"references: {kinds}")
    evaluate.add_argument(
        "--references", action="append", default=[], metavar="FILE", help="the same, by name"
    )
    evaluate.add_argument(
        "--protocol", choices=("geodiff", "torsional"), default="", help="default: our own"
    )
    evaluate.add_argument(
        "--methods",
        default="diffusion,etkdg,etkdg+mmff",
        help="of diffusion, diffusion+mmff, etkdg and etkdg+mmff",
    )
    evaluate.add_argument(
        "--relax", choices=("MMFF94s",), help="also diffusion followed by this force field"
    )
    evaluate.add_argument("--molecules", type=int, default=0, metavar="K", help="only K of them")
    evaluate.add_argument("--delta", type=float, action="append", metavar="Å", help="threshold(s)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--out", metavar="FILE", help="all results as JSON")
    evaluate.add_argument("--table", metavar="FILE", help="the tables as Markdown")
    evaluate.add_argument("--plot", metavar="FILE", help="COV-R and COV-P against δ, .png or .svg")
    evaluate.add_argument("--posebusters", action="store_true")
    evaluate.add_argument("--workers", type=positive, default=1, help="threads that score (1)")
    add_model_options(evaluate)
    add_other_models(evaluate)


def run_evaluate(args: argparse.Namespace) -> int:
    """COV and MAT of the model and of ETKDGv3 on reference ensembles."""
    from rdgeodiff.evaluation.generators import make_generators
    from rdgeodiff.evaluation.plots import plot_coverage, require_matplotlib
    from rdgeodiff.evaluation.protocols import protocol_of
    from rdgeodiff.evaluation.report import evaluate_archive

    archives = [*args.archives, *args.references]
    if not archives:
        raise ValueError("name at least one file of references")
    if args.plot:
        require_matplotlib()
    set_threads(args.threads)
    options = model_options(args)
    methods = [m.strip() for m in args.methods.split(",")]
    if args.relax and "diffusion+mmff" not in methods:
        methods.append("diffusion+mmff")
    generators = make_generators(
        methods, args.beside, seed=args.seed, threads=args.threads, **options
    )
    reports = []
    for archive in archives:
        report = evaluate_archive(
            archive,
            generators,
            molecules=args.molecules,
            deltas=args.delta or (),
            protocol=protocol_of(args.protocol),
            sweep=bool(args.protocol or args.plot),
            posebusters=args.posebusters,
            workers=args.workers,
            progress=not args.quiet,
        )
        reports.append(report)
        print(report.to_markdown())
        if args.table:
            Path(args.table).write_text("\n".join(r.to_markdown() for r in reports))
        if args.out:
            settings = {
                "seed": args.seed,
                "threads": args.threads,
                **options,
                "beside": args.beside,
            }
            data = {
                "rdgeodiff": version(),
                "settings": settings,
                "archives": [r.to_dict() for r in reports],
            }
            Path(args.out).write_text(json.dumps(data, indent=1) + "\n")
        if args.plot:
            plot_coverage(reports, args.plot)
        if report.interrupted:
            return INTERRUPTED
    return DONE
