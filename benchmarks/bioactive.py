"""How near the best of n conformers comes to a protein-bound pose, beside ETKDGv3.

    python benchmarks/bioactive.py ARCHIVE [--counts 1 10 50] [--every 5] [--stretch 0.6]
        [--climbs 5] [--oversampling 4] [--runs FILE] [--out FILE]

ARCHIVE holds one crystal pose a molecule (arrays as in data/README.md); such sets are third-party
and not part of the repository. Every method draws the largest count once, and n means its first n
conformers. With oversampling these are the first n of the choice from all that were drawn. RMSD is
over heavy atoms, the smallest over symmetric assignments. Molecules already in the runs file are
not drawn again, so the benchmark can be stopped and continued.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.data.conformer_sets import ReferenceMolecule, read_archive
from rdgeodiff.evaluation.generators import METHODS, make_generator

NEAR = (1.0, 2.0)  # Å


def main() -> None:
    """Draw, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--every", type=int, default=1, help="take every k-th molecule")
    parser.add_argument("--first", type=int, default=0, help="index of the first molecule taken")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["diffusion", "etkdg"])
    parser.add_argument("--model", default="default")
    parser.add_argument("--stretch", type=float, default=0.0, help="of the model")
    parser.add_argument("--climbs", type=int, default=0, help="of the model; 0: its own number")
    parser.add_argument("--oversampling", type=int, default=1, help="of every method")
    parser.add_argument("--energy-width", type=float, default=2.0, help="with oversampling")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/bioactive.jsonl"))
    parser.add_argument("--out", type=Path, help="also write the table here")
    args = parser.parse_args()
    references = list(read_archive(args.archive))[args.first :: args.every]
    rows = _measure(references, args)
    table = _table(rows, args)
    print(table)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(table + "\n")


def _measure(references: list[ReferenceMolecule], args: argparse.Namespace) -> list[dict]:
    shared = [args.archive.name, max(args.counts), args.model, args.seed]
    # Runs files of before know nothing of these.
    if args.oversampling > 1:
        shared += [args.oversampling, args.energy_width]
    drawn = [*shared]
    for name in ("stretch", "climbs"):
        if getattr(args, name):
            drawn += [name, getattr(args, name)]
    settings = {m: drawn if m.startswith("diffusion") else shared for m in args.methods}
    done = {}
    if args.runs.exists():
        for line in args.runs.read_text().splitlines():
            row = json.loads(line)
            if row["settings"] == settings.get(row["method"]):
                done[row["smiles"], row["method"]] = row
    generators = {
        method: make_generator(
            method,
            seed=args.seed,
            threads=args.threads,
            model=args.model,
            oversampling=args.oversampling,
            energyWidth=args.energy_width,
            stretch=args.stretch,
            climbs=args.climbs,
        )
        for method in args.methods
    }
    args.runs.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for reference in tqdm(references, unit="molecule"):
        for method, generator in generators.items():
            row = done.get((reference.smiles, method))
            if row is None:
                (made,) = generator([reference.mol], [max(args.counts)])
                values = rmsd_matrix(reference.mol, made.positions, reference.positions).values
                row = {
                    "settings": settings[method],
                    "smiles": reference.smiles,
                    "method": method,
                    "atoms": reference.mol.GetNumAtoms(),
                    "seconds": made.seconds,
                    "error": made.error,
                    # To the nearest pose where an archive has several.
                    "rmsd": values.min(1).round(4).tolist() if values.size else [],
                }
                with args.runs.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")
            rows.append(row)
    return rows


def _table(rows: list[dict], args: argparse.Namespace) -> str:
    # A molecule that one method could not do at all is left out for all, and counted.
    failed = {r["smiles"] for r in rows if not r["rmsd"]}
    kept = [r for r in rows if r["smiles"] not in failed]
    molecules = len({r["smiles"] for r in kept})
    lines = [
        f"{args.archive.name}: {molecules} molecules, smallest heavy-atom RMSD to the pose, Å "
        f"(mean / median; share within {NEAR[0]:g} and {NEAR[1]:g} Å)",
        "",
        "| method | " + " | ".join(f"n = {n}" for n in args.counts) + " | s/conformer |",
        "|---" * (len(args.counts) + 2) + "|",
    ]
    for method in args.methods:
        own = [r for r in kept if r["method"] == method]
        cells = []
        for n in args.counts:
            best = np.array([min(r["rmsd"][:n]) for r in own])
            shares = ", ".join(f"{100 * (best <= limit).mean():.0f} %" for limit in NEAR)
            cells.append(f"{best.mean():.3f} / {np.median(best):.3f} ({shares})")
        drawn = sum(len(r["rmsd"]) for r in own)
        cells.append(f"{sum(r['seconds'] for r in own) / max(drawn, 1):.4f}")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    if failed:
        lines += ["", f"Left out, because a method made nothing of them: {len(failed)}."]
        lines += [f"- `{smiles}`" for smiles in sorted(failed)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
