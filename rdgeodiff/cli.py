"""The command line. Each command lives in a file of `rdgeodiff.commands`.

Commands import what they need when they run, so that `train` and `export` work where RDKit is not
installed. Exit status: 0 done, 1 done with failures (`--strict`), 2 the call itself was wrong, 130
interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from rdgeodiff.commands import (
    convert,
    dataset,
    embed,
    evaluate,
    export,
    info,
    properties,
    screen,
    train,
)
from rdgeodiff.commands.common import INTERRUPTED, USAGE, version

COMMANDS = (embed, screen, evaluate, properties, train, export, dataset, convert, info)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: the process's own) and return its exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except (OSError, ValueError, ImportError) as error:
        # Every error the library raises on purpose is one of these and says what to do.
        if args.traceback:
            raise
        return _complain(str(error), USAGE)


def _complain(message: str, status: int) -> int:
    print(f"rdgeodiff: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rdgeodiff", description="Conformers from diffusion.")
    parser.add_argument("--version", action="version", version=f"rdgeodiff {version()}")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    return parser
