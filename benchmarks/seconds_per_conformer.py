"""Seconds per conformer of the model and of ETKDGv3, n = 10 and 50, 1 and 2 threads.

    python benchmarks/seconds_per_conformer.py [--model NAME] [--repeats 3] [--out FILE]

Medians of repeats, the methods taking turns so that a busy machine slows both. Loading the model is
not timed; checks, resampling and writing conformers are.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from rdkit import Chem
from tqdm.auto import tqdm

from rdgeodiff.data.conformer_sets import read_archive
from rdgeodiff.evaluation.generators import make_generator

ARCHIVE = Path(__file__).parent / "data" / "val_qm9.npz"
SMILES = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
    "nonane": "CCCCCCCCC",  # 29 atoms, the largest QM9 holds
}


def main() -> None:
    """Time all combinations and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["diffusion", "etkdg"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    options = {"model": args.model, "steps": args.steps, "device": args.device}
    mols = {name: Chem.AddHs(Chem.MolFromSmiles(smiles)) for name, smiles in SMILES.items()}
    largest = max(read_archive(ARCHIVE), key=lambda r: r.mol.GetNumAtoms())
    mols["largest of val_qm9"] = largest.mol
    cases = [(m, n, t) for m in mols for n in args.counts for t in args.threads]
    rows = []
    for name, count, threads in tqdm(cases, unit="case"):
        torch.set_num_threads(threads)
        times: dict[str, list[float]] = {m: [] for m in args.methods}
        delivered: dict[str, int] = dict.fromkeys(args.methods, 0)
        for repeat in range(args.repeats):
            for method in args.methods:
                generator = make_generator(method, seed=repeat, threads=threads, **options)
                (made,) = generator([mols[name]], [count])
                times[method].append(made.seconds / max(len(made.positions), 1))
                delivered[method] += len(made.positions)
        for method in args.methods:
            rows.append(
                {
                    "molecule": name,
                    "atoms": mols[name].GetNumAtoms(),
                    "conformers": count,
                    "threads": threads,
                    "method": method,
                    "seconds_per_conformer": statistics.median(times[method]),
                    "delivered_share": delivered[method] / (count * args.repeats),
                }
            )
    print("| molecule | atoms | n | threads | method | s/conformer | delivered % |")
    print("|---|---|---|---|---|---|---|")
    for r in rows:
        cells = [r[k] for k in ("molecule", "atoms", "conformers", "threads", "method")]
        cells += [f"{r['seconds_per_conformer']:.4f}", f"{100 * r['delivered_share']:.1f}"]
        print("| " + " | ".join(str(c) for c in cells) + " |")
    if args.out:
        args.out.write_text(json.dumps({"settings": options, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
