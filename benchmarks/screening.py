"""Molecules per second and memory over time of `rdgeodiff screen` on the first rows of a library.

    python benchmarks/screening.py library.smi [--sizes 1000 5000] [-n 1] [--steps 0]
        [--model default] [--ray 2] [--folder KEEP] [--json samples.jsonl]

Each size is a process of its own, so that its peak is its own. Times include loading the model, and
with --ray starting Ray. With --folder the shards stay: a call that was killed goes on there, and
its time is the sum of the seconds the shards took. CPU seconds are those of all threads, with --ray
of all processes; on a machine that others use too they say more than the clock. Memory is the
resident set of the process, with --ray the proportional set (shared pages counted once) of it and
all that descend from it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

INTERVAL = 1.0  # seconds between two looks at the memory
PARTS = 5


def main() -> None:
    """Run every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("-n", type=int, default=1)
    parser.add_argument("--steps", type=int, default=0, help="0: the model's own")
    parser.add_argument("--model", default="default")
    parser.add_argument("--shard", type=int, default=256)
    parser.add_argument("--ray", type=int, help="workers of a local Ray")
    parser.add_argument("--folder", type=Path, help="keep the shards below this folder")
    parser.add_argument("--json", type=Path, help="append (second, MB) of every run to this file")
    args = parser.parse_args()
    parts = " | ".join(f"MB in fifth {k + 1}" for k in range(PARTS))
    print(f"| molecules | conformers | missing | s | CPU s | molecules/s | peak MB | {parts} |")
    print("|---" * (7 + PARTS) + "|")
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as spare:
            folder = args.folder / f"{size}" if args.folder else Path(spare)
            print(measured(args, size, folder), flush=True)


def measured(args: argparse.Namespace, size: int, folder: Path) -> str:
    """A line of the table."""
    call = [sys.executable, "-m", "rdgeodiff", "screen", str(args.library), str(folder)]
    call += ["-n", str(args.n), "--steps", str(args.steps), "--shard", str(args.shard)]
    call += ["--model", args.model]
    call += ["--rows", f":{size}", "--seed", "7", "--quiet", "--format", "parquet"]
    if args.ray is not None:
        call += ["--ray", str(args.ray)]
    before = sum(line["molecules"] for line in shards(folder))
    samples: list[tuple[float, float]] = []
    spent: dict[int, float] = {}
    started = time.monotonic()
    child = subprocess.Popen(call, stdout=subprocess.DEVNULL)
    watch = threading.Thread(target=watched, args=(child.pid, args.ray is not None, samples, spent))
    watch.start()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - started
    watch.join()
    if status:
        sys.exit(f"{' '.join(call)}: status {status}")
    if args.json:
        with open(args.json, "a") as stream:
            stream.write(json.dumps({"molecules": size, "ray": args.ray, "MB": samples}) + "\n")
    lines = shards(folder)
    if before:
        seconds = sum(line["seconds"] for line in lines)
    molecules = sum(line["molecules"] for line in lines)
    conformers = sum(line["conformers"] for line in lines)
    missing = sum(line["requested"] for line in lines) - conformers
    # Linux counts in kB. A child that Ray keeps elsewhere is in the samples only.
    own = usage.ru_maxrss / 1024
    peak = max([own, *(mb for _, mb in samples)]) if args.ray is not None else own
    cpu = sum(spent.values()) if args.ray is not None else usage.ru_utime + usage.ru_stime
    cuts = [len(samples) * k // PARTS for k in range(PARTS + 1)]
    means = [
        f"{statistics.fmean(mb for _, mb in samples[a:b]):.0f}" if b > a else "-"
        for a, b in zip(cuts, cuts[1:], strict=False)
    ]
    return (
        f"| {molecules} | {conformers} | {missing} | {seconds:.0f} | {cpu:.0f} "
        f"| {molecules / seconds:.1f} "
        f"| {peak:.0f} | {' | '.join(means)} |"
    )


def shards(folder: Path) -> list[dict]:
    """Lines of the manifest without its header."""
    manifest = folder / "manifest.jsonl"
    lines = manifest.read_text().splitlines()[1:] if manifest.exists() else []
    return [json.loads(line) for line in lines]


def watched(
    pid: int, tree: bool, samples: list[tuple[float, float]], spent: dict[int, float]
) -> None:
    """Append (s, MB) and note the CPU seconds of each process until the process is gone."""
    started = time.monotonic()
    while (used := memory(pid, tree)) is not None:
        for one in descendants(pid):
            if fields := stat(one):
                spent[one] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        samples.append((round(time.monotonic() - started, 1), round(used, 1)))
        time.sleep(INTERVAL)


def memory(pid: int, tree: bool) -> float | None:
    """MB of a process, or of it and its descendants; None when it is gone."""
    name, key = ("smaps_rollup", "Pss:") if tree else ("status", "VmRSS:")
    total = found = 0
    for one in descendants(pid) if tree else [pid]:
        try:
            text = Path(f"/proc/{one}/{name}").read_text()
        except OSError:
            continue
        sizes = [int(line.split()[1]) for line in text.splitlines() if line.startswith(key)]
        total += sum(sizes)
        found += bool(sizes)
    return total / 1024 if found else None


def descendants(pid: int) -> list[int]:
    """The process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            if fields := stat(int(entry.name)):
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def stat(pid: int) -> list[str]:
    """What /proc tells of a process, from its state on; nothing when it is gone."""
    try:
        # The name may hold blanks and brackets; what follows its last bracket does not.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


if __name__ == "__main__":
    main()
