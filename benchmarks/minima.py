"""How far is a conformer from its own minimum, and how high is that? Needs no references.

    python benchmarks/minima.py ARCHIVE [--count 10] [--window 10] [--models small base]

A conformer that no reference is near may be wrong, or the references may lack it. GFN2-xTB knows:
each of COUNT conformers a molecule and method is optimised, which tells how far its heavy atoms
move, whether bonds and stereo hold, and how high the minimum lies above the lowest that any of the
methods or the references have. Energies of the archive are not used: the lowest reference is
optimised too. Needs xtb (`make xtb`).
"""

from __future__ import annotations

import argparse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from rdgeodiff.chem.rmsd import rmsds
from rdgeodiff.chem.xtb import Optimised, XtbProgram
from rdgeodiff.data.conformer_sets import ReferenceMolecule
from rdgeodiff.datasets.checks import Checks
from rdgeodiff.evaluation.generators import METHODS, make_generator
from rdgeodiff.evaluation.references import read_references

NEAR = (0.25, 0.5)  # Å


@dataclass
class Tally:
    """What was found of one method: Å moved, kcal/mol above the lowest, and what was no minimum."""

    moved: list[float] = field(default_factory=list)
    above: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)

    def row(self, method: str, window: float) -> str:
        """A line of the table; what has no minimum counts as far and as high."""
        total = max(len(self.moved) + sum(self.lost.values()), 1)
        moved, above = np.array(self.moved), np.array(self.above)
        near = [100 * (moved <= limit).sum() / total for limit in NEAR]
        good = 100 * ((moved <= NEAR[-1]) & (above <= window)).sum() / total
        middle = (np.median(moved), np.median(above)) if len(moved) else (np.nan, np.nan)
        cells = [f"{middle[0]:.2f}", *(f"{n:.0f}" for n in near), f"{middle[1]:.1f}", f"{good:.0f}"]
        why = ", ".join(f"{cause} {n}" for cause, n in self.lost.items()) or "–"
        return f"| {method} | {total} | {' | '.join(cells)} | {why} |"


def main() -> None:
    """Draw, optimise, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive")
    parser.add_argument("--count", type=int, default=10, help="conformers a molecule and method")
    parser.add_argument("--window", type=float, default=10.0, help="kcal/mol above the lowest")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["diffusion", "etkdg"])
    parser.add_argument("--models", nargs="+", default=["default"], help="of diffusion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="optimisations at a time")
    args = parser.parse_args()
    references = list(read_references(args.archive))
    counts = [args.count] * len(references)
    made = {}
    for method in args.methods:
        for model in args.models if method.startswith("diffusion") else [""]:
            generator = make_generator(method, seed=args.seed, model=model)
            drawn = generator([r.mol for r in references], counts)
            made[f"{method} {model}".strip()] = list(drawn)
    tallies = {method: Tally() for method in made}
    for row, reference in enumerate(tqdm(references, unit="mol")):
        positions = {method: own[row].positions for method, own in made.items()}
        _compare(reference, positions, tallies, args.jobs)
    near = " | ".join(f"within {limit} Å %" for limit in NEAR)
    print(
        f"| method | conformers | median Å moved | {near} | median kcal/mol | "
        f"within {NEAR[-1]} Å and {args.window:g} kcal/mol % | no minimum |"
    )
    print("|---" * (6 + len(NEAR)) + "|")
    for method, tally in tallies.items():
        print(tally.row(method, args.window))


def _compare(
    reference: ReferenceMolecule,
    positions: dict[str, np.ndarray],
    tallies: dict[str, Tally],
    jobs: int,
) -> None:
    """Optimise the conformers of one molecule and add what was found to the tallies."""
    mol, program, checks = reference.mol, XtbProgram(), Checks(reference.mol)
    start = 0 if reference.energies is None else int(reference.energies.argmin())
    lowest = program.optimise(mol, reference.positions[start]).energy

    def minimum(drawn: np.ndarray) -> tuple[Optimised | None, Counter[str]]:
        lost: Counter[str] = Counter()
        return checks.minimum(program, drawn, lost), lost

    with ThreadPoolExecutor(jobs) as pool:
        found = {method: list(pool.map(minimum, own)) for method, own in positions.items()}
    energies = [reached.energy for own in found.values() for reached, _ in own if reached]
    lowest = min([lowest, *energies])
    for method, own in found.items():
        tally = tallies[method]
        for drawn, (reached, lost) in zip(positions[method], own, strict=True):
            tally.lost.update(lost)
            if reached is not None:
                tally.moved.append(float(rmsds(mol, [drawn], [reached.positions])[0, 0]))
                tally.above.append(reached.energy - lowest)


if __name__ == "__main__":
    main()
