"""Molecules per second and peak memory of `rdgeodiff screen` on the first rows of a library.

    python benchmarks/screening.py library.smi [--sizes 1000 5000] [-n 1] [--steps 8]

Each size is a process of its own, so that its peak is its own. Times include loading the model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Run every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("-n", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--shard", type=int, default=256)
    args = parser.parse_args()
    print("| molecules | conformers | missing | s | molecules/s | peak memory MB |")
    print("|---|---|---|---|---|---|")
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            print(measured(args, size, Path(folder)), flush=True)


def measured(args: argparse.Namespace, size: int, folder: Path) -> str:
    """A line of the table."""
    call = [sys.executable, "-m", "rdgeodiff", "screen", str(args.library), str(folder)]
    call += ["-n", str(args.n), "--steps", str(args.steps), "--shard", str(args.shard)]
    call += ["--rows", f":{size}", "--seed", "7", "--quiet"]
    started = time.monotonic()
    child = subprocess.Popen(call, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - started
    if status:
        sys.exit(f"{' '.join(call)}: status {status}")
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()][1:]
    molecules = sum(line["molecules"] for line in lines)
    conformers = sum(line["conformers"] for line in lines)
    missing = sum(line["requested"] for line in lines) - conformers
    # Linux counts in kB.
    return (
        f"| {molecules} | {conformers} | {missing} | {seconds:.0f} | {molecules / seconds:.1f} "
        f"| {usage.ru_maxrss / 1024:.0f} |"
    )


if __name__ == "__main__":
    main()
