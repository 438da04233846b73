"""What the commands share: exit statuses, common options, threads and devices."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from rdgeodiff.parameters import PRECISIONS

# Parameters of an embedding call that `add_model_options` adds, beside the threads.
MODEL_OPTIONS = (
    "model",
    "steps",
    "sampler",
    "guidanceWeight",
    "stretch",
    "climbs",
    "oversampling",
    "energyWidth",
    "device",
    "precision",
)
DONE, FAILURES, USAGE, INTERRUPTED = 0, 1, 2, 130


def version() -> str:
    """Version of the installed package, or "unknown" in a bare checkout."""
    try:
        return metadata.version("rdgeodiff")
    except metadata.PackageNotFoundError:
        return "unknown"


def add_command(commands: Any, name: str, run: Any) -> argparse.ArgumentParser:
    """A subcommand whose help is the docstring of the function that runs it."""
    command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=run)
    return command


def add_model_options(command: argparse._ActionsContainer) -> None:
    """Options that say which model draws, how, and on what."""
    command.add_argument("--model", default="default", help="name or path")
    command.add_argument("--steps", type=int, default=0, help="0: the model's own")
    command.add_argument("--sampler", default="", help="default: the model's own")
    command.add_argument(
        "--guidance",
        dest="guidanceWeight",
        type=float,
        default=-1.0,
        metavar="W",
        help="weight of the model's guide; 0: none, -1: the model's own",
    )
    command.add_argument(
        "--stretch",
        type=float,
        default=0.0,
        metavar="S",
        help="draw flexible molecules less folded than the gas phase has them, 0 to 1 (0)",
    )
    command.add_argument(
        "--climbs",
        type=int,
        default=0,
        metavar="K",
        help="jump to neighbouring basins K - 1 times: more precise, less diverse; "
        "0: the model's own",
    )
    command.add_argument(
        "--oversampling",
        type=positive,
        default=1,
        metavar="K",
        help="draw K times as many conformers and deliver those that stand best for all (1)",
    )
    command.add_argument(
        "--energy-width",
        dest="energyWidth",
        type=float,
        default=2.0,
        metavar="E",
        help="with --oversampling a conformer counts exp(-energy/E), kcal/mol; -1: all alike (2)",
    )
    command.add_argument("--device", default="auto")
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="auto: bfloat16 where the device computes with it, float32 elsewhere",
    )
    command.add_argument("--threads", type=int, default=1, help="0: torch's and RDKit's own choice")


def add_other_models(command: argparse._ActionsContainer) -> None:
    """The option that sets further models beside the one of `add_model_options`."""
    command.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="MODEL[,SAMPLER[,STEPS]]",
        help="another model in the same run, or the same drawn otherwise; may be repeated",
    )


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """The values of `add_model_options` as keywords of an embedding call (without threads)."""
    return {name: getattr(args, name) for name in MODEL_OPTIONS}


def device_of(name: str) -> str:
    """A torch device for the value of --device."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def set_threads(count: int) -> None:
    """Hold torch to `count` threads; 0 leaves its own choice."""
    if count:
        import torch

        torch.set_num_threads(count)


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within the block SIGTERM is Ctrl-C: what a command has started ends with it.

    Without effect where signals cannot be handled, outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value
