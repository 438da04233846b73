"""Add to reference ensembles the minima that GFN2-xTB has and a force field takes away.

    python benchmarks/widen_references.py ARCHIVE OUT.npz [--count 70] [--seeds 300] [--window 10]

Ensembles are made from seeds that a force field has relaxed first, so that minima it lacks are
missing from them. Here the COUNT most different of SEEDS ETKDGv3 geometries of each molecule are
optimised with GFN2-xTB as they were drawn, and what is new joins the references; energies count
from the lowest of both. No seed comes from a diffusion model. What is made of a molecule is kept
beside OUT at once, in OUT.parts, and a second call goes on from there. Needs xtb (`make xtb`).
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from rdgeodiff.chem.xtb import XtbProgram
from rdgeodiff.data.conformer_sets import ReferenceMolecule, read_archive, write_archive
from rdgeodiff.datasets.checks import Checks
from rdgeodiff.datasets.seeds import EtkdgSeeds
from rdgeodiff.datasets.selection import distinct, spread

FIRST_SEED = 1000  # of ETKDG for the first molecule; the next has the next


def main() -> None:
    """Optimise, join, write; a line a molecule says what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=70, help="optimisations a molecule")
    parser.add_argument("--seeds", type=int, default=300, help="geometries to choose from")
    parser.add_argument("--window", type=float, default=10.0, help="kcal/mol above the lowest")
    args = parser.parse_args()
    parts = args.out.with_suffix(".parts")
    parts.mkdir(parents=True, exist_ok=True)
    references, lost = list(read_archive(args.archive)), Counter[str]()
    wider = []
    for number, reference in enumerate(tqdm(references, unit="mol")):
        part = parts / f"{number}.npz"
        if not part.exists():
            positions, energies = _minima(reference, FIRST_SEED + number, args, lost)
            unfinished = parts / "unfinished.npz"
            np.savez(unfinished, pos=positions, energy=energies)
            unfinished.replace(part)
        with np.load(part) as stored:
            positions, energies = stored["pos"], stored["energy"]
        wider.append(_joined(reference, positions, energies, args.window))
        tqdm.write(
            f"{reference.smiles}: {len(reference.positions)} references, {len(positions)} minima "
            f"of GFN2-xTB, {len(wider[-1].positions)} together"
        )
    write_archive(args.out, wider)
    total = sum(len(molecule.positions) for molecule in wider)
    why = ", ".join(f"{cause} {n}" for cause, n in lost.items()) or "none"
    print(f"{args.out}: {len(wider)} molecules, {total} conformers; without a minimum: {why}")


def _minima(
    reference: ReferenceMolecule, seed: int, args: argparse.Namespace, lost: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (C, N, 3) in Å, and kcal/mol above the lowest reference (which may be negative)."""
    assert reference.energies is not None
    mol, program, checks = reference.mol, XtbProgram(), Checks(reference.mol)
    lowest = program.optimise(mol, reference.positions[reference.energies.argmin()]).energy
    seeds = EtkdgSeeds().draw(mol, args.seeds, seed)
    positions, energies = [], []
    for k in spread(mol, seeds)[: args.count]:
        found = checks.minimum(program, seeds[k], lost)
        if found is not None:
            positions.append(found.positions)
            energies.append(found.energy - lowest)
    return np.array(positions).reshape(-1, mol.GetNumAtoms(), 3), np.array(energies)


def _joined(
    reference: ReferenceMolecule, positions: np.ndarray, energies: np.ndarray, window: float
) -> ReferenceMolecule:
    """Distinct conformers of both within the window, by rising energy."""
    assert reference.energies is not None
    every = np.concatenate([reference.positions, positions])
    above = np.concatenate([reference.energies, energies])
    above -= above.min()
    low = np.flatnonzero(above <= window)
    kept = low[distinct(reference.mol, every[low], above[low])]
    return ReferenceMolecule(reference.smiles, reference.mol, every[kept], above[kept])


if __name__ == "__main__":
    main()
