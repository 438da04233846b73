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
    model_options,
    set_threads,
    version,
)


def register(commands: Any) -> None:
    """Add the command to the parser."""
    evaluate = add_command(commands, "evaluate", run_evaluate)
    evaluate.add_argument("archives", nargs="+", metavar="ARCHIVE", help="references, .npz")
    evaluate.add_argument("--methods", default="diffusion,etkdg,etkdg+mmff")
    evaluate.add_argument("--molecules", type=int, default=0, metavar="K", help="only K of them")
    evaluate.add_argument("--delta", type=float, action="append", metavar="Å", help="threshold(s)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--out", metavar="FILE", help="all results as JSON")
    evaluate.add_argument("--posebusters", action="store_true")
    add_model_options(evaluate)


def run_evaluate(args: argparse.Namespace) -> int:
    """COV and MAT of the model and of ETKDGv3 on reference ensembles."""
    from rdgeodiff.evaluation.generators import make_generator
    from rdgeodiff.evaluation.report import evaluate_archive

    set_threads(args.threads)
    options = model_options(args)
    generators = [
        make_generator(m.strip(), seed=args.seed, threads=args.threads, **options)
        for m in args.methods.split(",")
    ]
    reports = []
    for archive in args.archives:
        report = evaluate_archive(
            archive,
            generators,
            molecules=args.molecules,
            deltas=args.delta or (),
            posebusters=args.posebusters,
            progress=not args.quiet,
        )
        reports.append(report)
        print(report.to_markdown())
        if args.out:
            settings = {"seed": args.seed, "threads": args.threads, **options}
            archives = [r.to_dict() for r in reports]
            data = {"rdgeodiff": version(), "settings": settings, "archives": archives}
            Path(args.out).write_text(json.dumps(data, indent=1) + "\n")
        if report.interrupted:
            return INTERRUPTED
    return DONE
