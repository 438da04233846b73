"""What the conformers are that no reference covers: poor ones, or good ones the references lack?

    python benchmarks/misses.py ARCHIVE [--delta 0.75] [--limit 8] [--window 10] [--model base]

Precision calls a conformer wrong that lies further than δ from every reference. Here up to LIMIT of
those of each molecule are optimised with GFN2-xTB, as the references were. A minimum that is still
further than δ away, and within WINDOW kcal/mol of the lowest reference, is a conformer that the
references lack. Needs xtb (`make xtb`).
"""

from __future__ import annotations

import argparse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm.auto import tqdm

from rdgeodiff.chem.programs import QuantumError
from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.chem.xtb import BondGraph, XtbProgram
from rdgeodiff.data.conformer_sets import ReferenceMolecule
from rdgeodiff.evaluation.generators import METHODS, make_generator
from rdgeodiff.evaluation.references import read_references

KINDS = ("covered once optimised", "lacking in the references", "too high", "not optimised")


def main() -> None:
    """Draw, optimise what is not covered, print what it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive")
    parser.add_argument("--delta", type=float, default=0.75, help="Å")
    parser.add_argument("--limit", type=int, default=8, help="conformers a molecule")
    parser.add_argument("--window", type=float, default=10.0, help="kcal/mol")
    parser.add_argument("--method", choices=METHODS, default="diffusion")
    parser.add_argument("--model", default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="optimisations at a time")
    args = parser.parse_args()
    generator = make_generator(args.method, seed=args.seed, model=args.model)
    references = list(read_references(args.archive))
    total: Counter[str] = Counter()
    print("| molecule | not covered % | " + " | ".join(KINDS) + " | median kcal/mol of these |")
    print("|---" * (len(KINDS) + 3) + "|")
    counts = [2 * len(r.positions) for r in references]
    made = generator([r.mol for r in references], counts)
    uncovered = []
    for reference, own in zip(references, tqdm(made, total=len(references)), strict=True):
        rmsd = rmsd_matrix(reference.mol, own.positions, reference.positions).values.min(1)
        missed = np.flatnonzero(rmsd > args.delta)
        uncovered.append(100 * len(missed) / len(rmsd))
        # Evenly, as they have no order.
        chosen = missed[:: max(1, -(-len(missed) // args.limit))]
        kinds, energies = _kinds(reference, own.positions[chosen], args)
        total.update(kinds)
        cells = [f"{uncovered[-1]:.0f}", *(str(kinds[k]) for k in KINDS)]
        cells.append(f"{np.median(energies):.1f}" if energies else "–")
        print(f"| `{reference.smiles}` | " + " | ".join(cells) + " |", flush=True)
    looked_at = max(sum(total.values()), 1)
    shares = [f"{100 * total[k] / looked_at:.0f} %" for k in KINDS]
    print(
        f"| all, {looked_at} conformers | {np.mean(uncovered):.0f} | " + " | ".join(shares) + " | |"
    )


def _kinds(
    reference: ReferenceMolecule, positions: np.ndarray, args: argparse.Namespace
) -> tuple[Counter[str], list[float]]:
    """What became of conformers no reference covers, and energies of those that are lacking."""
    mol, program = reference.mol, XtbProgram()
    assert reference.energies is not None
    lowest = program.optimise(mol, reference.positions[reference.energies.argmin()]).energy
    bonds = BondGraph(mol)

    def kind(start: np.ndarray) -> tuple[str, float]:
        try:
            found = program.optimise(mol, start)
        except QuantumError:
            return "not optimised", 0.0
        energy = found.energy - lowest
        if not bonds.holds(found.positions):
            return "not optimised", energy
        apart = rmsd_matrix(mol, found.positions[None], reference.positions).values.min()
        if apart <= args.delta:
            return "covered once optimised", energy
        return ("lacking in the references" if energy <= args.window else "too high"), energy

    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(kind, positions))
    energies = [energy for name, energy in found if name == "lacking in the references"]
    return Counter(name for name, _ in found), energies


if __name__ == "__main__":
    main()
