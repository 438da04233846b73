"""`rdgeodiff convert`: checkpoints of the original GeoDiff release; needs no RDKit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rdgeodiff.commands.common import DONE, add_command


def register(commands: Any) -> None:
    """Add the command to the parser."""
    convert = add_command(commands, "convert", run_convert)
    convert.add_argument("checkpoint", help="a file of the original code, ITERATION.pt")
    convert.add_argument("model", help="writes MODEL.safetensors and MODEL.json; ending optional")
    convert.add_argument("--force", action="store_true", help="replace files that are there")


def run_convert(args: argparse.Namespace) -> int:
    """A checkpoint of the original GeoDiff code as a model; nothing in it is run."""
    from rdgeodiff.convert import write_converted

    target = Path(args.model)
    if target.suffix in (".safetensors", ".json"):
        target = target.with_suffix("")
    for ending in (".safetensors", ".json"):
        written = target.with_name(target.name + ending)
        if written.exists() and not args.force:
            raise ValueError(f"{written} is there already; --force replaces it")
    description = write_converted(args.checkpoint, target)
    info = json.loads(description.read_text())
    print(
        f"{description} and {target.name}.safetensors: {info['parameters']} parameters, "
        f"{info['schedule']['steps']} steps; use it as model={str(description)!r}"
    )
    return DONE
