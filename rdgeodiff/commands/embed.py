"""`rdgeodiff embed`: a file of molecules in, a file of conformers out."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdgeodiff.commands.common import (
    DONE,
    FAILURES,
    INTERRUPTED,
    MODEL_OPTIONS,
    add_command,
    add_model_options,
    model_options,
    positive,
    set_threads,
)
from rdgeodiff.parameters import FORCE_FIELDS

if TYPE_CHECKING:
    from rdgeodiff.parameters import DiffusionEmbedParameters

EXAMPLES = """\
examples:
  rdgeodiff embed drugs.smi conformers.sdf -n 20 --seed 7
  rdgeodiff embed library.csv conformers.sdf.gz --failed failed.tsv --report run.html
  rdgeodiff embed library.parquet conformers.parquet --params settings.json --strict
  zcat library.smi.gz | rdgeodiff embed - - --from smi --to sdf --quiet | next-tool

exit status: 0 done, 1 molecules lack conformers (with --strict), 2 the call was wrong.
"""


def register(commands: Any) -> None:
    """Add the command to the parser."""
    embed = add_command(commands, "embed", run_embed)
    embed.formatter_class = argparse.RawDescriptionHelpFormatter
    embed.epilog = EXAMPLES
    files = embed.add_argument_group("files")
    files.add_argument(
        "input",
        help="molecules: .smi, .csv, .tsv, .sdf, .mol, .mol2, .pdb, .mae, .cdxml, .mrv, .inchi, "
        ".parquet; with Open Babel also .cml, .cdx, .hin, .mcdl, .pdbqt; each also as .gz; - for "
        "standard input",
    )
    files.add_argument(
        "output",
        help="conformers: .sdf or .sdf.gz, one record per conformer; .parquet, one row per "
        "molecule; - for standard output",
    )
    files.add_argument("--from", dest="source_kind", metavar="KIND", help="format of the input")
    files.add_argument("--to", dest="target_kind", metavar="KIND", help="format of the output")
    files.add_argument(
        "--smiles-column",
        metavar="TITLE",
        help="of a table (default: the first whose title contains smiles, else the first)",
    )
    drawing = embed.add_argument_group("conformers")
    drawing.add_argument("-n", type=positive, default=10, help="conformers per molecule (10)")
    drawing.add_argument("--seed", type=int, help="same seed, same conformers (default: new ones)")
    drawing.add_argument(
        "--prune",
        type=float,
        metavar="RMSD",
        help="drop conformers closer than this to one already kept, in Å (default: keep all)",
    )
    drawing.add_argument(
        "--relax", choices=FORCE_FIELDS, help="relax each conformer, before pruning (default: no)"
    )
    drawing.add_argument(
        "--add-hs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="add the hydrogens that are missing (default), or leave the atoms as they are",
    )
    drawing.add_argument(
        "--params",
        metavar="FILE",
        help="JSON of parameters, as DiffusionEmbedParameters.toJSON writes them; options given "
        "here win over the file",
    )
    account = embed.add_argument_group("account")
    account.add_argument("--failed", metavar="FILE", help="table of molecules lacking conformers")
    account.add_argument(
        "--report",
        metavar="FILE",
        help="HTML page: structures, outcomes, how the conformers differ, failures by cause",
    )
    account.add_argument("--strict", action="store_true", help="exit 1 if a molecule lacks any")
    add_model_options(embed.add_argument_group("model and machine"))
    # None tells what was not given, so that --params can speak.
    embed.set_defaults(**dict.fromkeys([*MODEL_OPTIONS, "threads"]))


def run_embed(args: argparse.Namespace) -> int:
    """Conformers for every molecule of a file."""
    from rdgeodiff.embed_file import embed_file

    given = {
        "randomSeed": args.seed,
        "pruneRmsThresh": args.prune,
        "relax": args.relax,
        "numThreads": args.threads,
        **model_options(args),
    }
    params = read_params(args.params) if args.params is not None else None
    set_threads(1 if args.threads is None else args.threads)
    try:
        tally = embed_file(
            args.input,
            args.output,
            args.n,
            add_hs=args.add_hs,
            failed=args.failed,
            report=args.report,
            source_kind=args.source_kind,
            target_kind=args.target_kind,
            smiles_column=args.smiles_column,
            progress=not args.quiet,
            params=params,
            **{name: value for name, value in given.items() if value is not None},
        )
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    print(tally.summary(), file=sys.stderr if args.output == "-" else sys.stdout)
    if tally.interrupted:
        return INTERRUPTED
    return FAILURES if args.strict and tally.failed else DONE


def read_params(path: str) -> DiffusionEmbedParameters:
    """Parameters from a JSON file.

    Raises:
        ValueError: not JSON, an unknown name, or a wrong value; says which.
        OSError: the file cannot be read.
    """
    from rdgeodiff.parameters import DiffusionEmbedParameters

    known = [f.name for f in fields(DiffusionEmbedParameters)]
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("must hold a JSON object of names and values")
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
                raise ValueError(f"there is no parameter {name!r}; {hint}")
        return DiffusionEmbedParameters().updated(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
