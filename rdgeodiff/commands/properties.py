"""`rdgeodiff evaluate-properties`: energies and HOMO-LUMO gaps beside the references'."""

from __future__ import annotations

import argparse
import json
import os
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
    terminated_as_interrupted,
    version,
)


def register(commands: Any) -> None:
    """Add the command to the parser."""
    properties = add_command(commands, "evaluate-properties", run_properties)
    kinds = "archive or shard (.npz), .sdf, GEOM's rdkit_folder or a preprocessed .pkl"
    properties.add_argument("archive", metavar="FILE", help=f"references: {kinds}")
    properties.add_argument("--program", choices=("xtb", "psi4"), default="xtb")
    properties.add_argument("--conformers", type=positive, default=50, metavar="N")
    properties.add_argument("--molecules", type=int, default=0, metavar="K", help="only K of them")
    properties.add_argument("--methods", default="diffusion,etkdg")
    properties.add_argument("--seed", type=int, default=0)
    properties.add_argument(
        "--jobs", type=positive, default=os.cpu_count() or 1, help="calculations at a time"
    )
    properties.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="seconds for one calculation"
    )
    properties.add_argument("--cache", metavar="FILE", help="keep and reuse results there")
    properties.add_argument("--out", metavar="FILE", help="all results as JSON")
    add_model_options(properties)
    add_other_models(properties)


def run_properties(args: argparse.Namespace) -> int:
    """Errors of ensemble energies and HOMO-LUMO gaps, computed with xtb or Psi4."""
    from rdgeodiff.evaluation.generators import make_generators
    from rdgeodiff.evaluation.properties import evaluate_properties
    from rdgeodiff.evaluation.quantum import QuantumProgram, make_program
    from rdgeodiff.evaluation.quantum_cache import CachedProgram

    set_threads(args.threads)
    options = model_options(args)
    # First, because a program that is missing is known at once, and a model takes time to load.
    program: QuantumProgram = make_program(args.program, args.timeout)
    if args.cache:
        program = CachedProgram(program, args.cache)
    methods = [m.strip() for m in args.methods.split(",")]
    generators = make_generators(
        methods, args.beside, seed=args.seed, threads=args.threads, **options
    )
    with terminated_as_interrupted():
        report = evaluate_properties(
            args.archive,
            generators,
            program,
            conformers=args.conformers,
            molecules=args.molecules,
            seed=args.seed,
            jobs=args.jobs,
            progress=not args.quiet,
        )
    print(report.to_markdown())
    if args.out:
        settings = {"seed": args.seed, "threads": args.threads, **options, "beside": args.beside}
        data = {"rdgeodiff": version(), "settings": settings, **report.to_dict()}
        Path(args.out).write_text(json.dumps(data, indent=1) + "\n")
    return INTERRUPTED if report.interrupted else DONE
