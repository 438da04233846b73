"""Which of more conformers than are wanted: what each rule gives and takes, from one pool.

    python benchmarks/choosing.py ARCHIVE [--most 4] [--model base] [--every 2] [--gfn2] [--pool F]

Draws MOST × 2 × references of each molecule, and of the first K of those chooses 2 × references:
the first ones, the lowest ones by several energies, those that stand for the others with several RT
(`rdgeodiff.chem.representatives`; `oversampling` is "30 steps" with RT 2). With --pool the draws
are kept and read again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from rdgeodiff.chem import xtb
from rdgeodiff.chem.relax import SETTLING_STEPS, relax_positions
from rdgeodiff.chem.representatives import representatives
from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.data.conformer_sets import ReferenceMolecule
from rdgeodiff.evaluation import quantum
from rdgeodiff.evaluation.covmat import CovMat, Spread, score, summarize
from rdgeodiff.evaluation.generators import make_generator
from rdgeodiff.evaluation.protocols import OWN
from rdgeodiff.evaluation.references import read_references

KCAL = xtb.HARTREE / quantum.HARTREE  # of an eV
STEPS = {"as drawn": 0, f"{SETTLING_STEPS} steps": SETTLING_STEPS, "relaxed": 2000}
WIDTHS = (0.5, 1.0, 2.0, 4.0, np.inf)  # kcal/mol
Scores = dict[tuple[int, str], list[CovMat]]


def main() -> None:
    """Draw, rate, choose, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive")
    parser.add_argument("--most", type=int, default=4, help="times as many as are wanted")
    parser.add_argument("--every", type=int, default=1, help="take every k-th molecule")
    parser.add_argument("--method", choices=("diffusion", "etkdg"), default="diffusion")
    parser.add_argument("--model", default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gfn2", action="store_true", help="also GFN2-xTB's energies (needs xtb)")
    parser.add_argument("--pool", type=Path, help="file of draws")
    args = parser.parse_args()
    references = list(read_references(args.archive))[:: args.every]
    deltas = OWN.deltas([r.mol for r in references])
    pool = dict(np.load(args.pool)) if args.pool is not None and args.pool.exists() else {}
    scores: Scores = {}
    for row, reference in enumerate(tqdm(references, unit="molecule")):
        key = f"pos{row}"
        if key not in pool:
            # The seed `evaluate` would use for this row.
            generator = make_generator(
                args.method, seed=args.seed + row, threads=args.threads, model=args.model
            )
            (made,) = generator([reference.mol], [args.most * 2 * len(reference.positions)])
            pool[key] = made.positions
            if args.pool is not None:
                np.savez(args.pool, **pool)
        _choose(reference, pool[key], args, deltas, scores)
    print(_table(scores, deltas))


def _choose(
    reference: ReferenceMolecule,
    drawn: np.ndarray,
    args: argparse.Namespace,
    deltas: tuple[float, ...],
    scores: Scores,
) -> None:
    """Add the scores of one molecule."""
    mol, wanted = reference.mol, 2 * len(reference.positions)
    apart = rmsd_matrix(mol, drawn, reference.positions).values
    energies = {
        name: relax_positions(mol, list(drawn), threads=args.threads, max_steps=steps).energies
        for name, steps in STEPS.items()
    }
    if args.gfn2:
        program = quantum.Xtb()
        found = [program.single_point(mol, x).energy for x in drawn]
        energies["GFN2-xTB as drawn"] = KCAL * np.array(found)

    def add(times: int, rule: str, chosen: np.ndarray | list[int]) -> None:
        scores.setdefault((times, rule), []).append(score(apart[chosen], deltas))

    add(1, "all", np.arange(min(wanted, len(drawn))))
    for times in range(2, args.most + 1, 2):
        count = min(times * wanted, len(drawn))
        for name, energy in energies.items():
            add(times, f"lowest, {name}", np.argsort(energy[:count], kind="stable")[:wanted])
        for name, energy in energies.items():
            widths = WIDTHS if STEPS.get(name) == SETTLING_STEPS else (2.0,)
            for width in widths:
                order = representatives([(mol, drawn[:count])], energy[:count], width)
                add(times, f"stand for the rest, RT {width:g}, {name}", order[:wanted])


def _table(scores: Scores, deltas: tuple[float, ...]) -> str:
    at = " / ".join(f"{d:g}" for d in deltas)
    lines = [
        f"| drawn | taken | COV-R % ({at} Å) | MAT-R Å | COV-P % ({at} Å) | MAT-P Å |",
        "|---" * 6 + "|",
    ]
    for (times, rule), found in sorted(scores.items(), key=lambda entry: entry[0][0]):
        total = summarize(found)
        cells = [_percent(total.cov_r), f"{total.mat_r.mean:.3f}"]
        cells += [_percent(total.cov_p), f"{total.mat_p.mean:.3f}"]
        lines.append(f"| {times} × | {rule} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(spreads: tuple[Spread, ...]) -> str:
    return " / ".join(f"{s.mean:.1f}" for s in spreads)


if __name__ == "__main__":
    main()
