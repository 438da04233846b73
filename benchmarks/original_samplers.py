"""Samplers of a network of the original's type: CPU seconds per conformer, and how good they are.

    python benchmarks/original_samplers.py original.json [--archive FILE] [--molecules 3]
        [--samplers langevin,5000 staged,100 dpm_solver_pp_2m_sde,50 ancestral,5000]
        [--beside default] [--seconds 50] [--folder runs/original_samplers]

Samples are taken as they come, as in the original's evaluation: nothing is checked, drawn again or
steered. ETKDGv3 is beside them, twice the references of each molecule are made by all. Those of the
archive's molecules with the fewest references are taken. What is done stays in the folder; the same
call goes on there. CPU seconds of one thread, because a clock would count whatever else the machine
does; 10 conformers ride in a batch.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.data.conformer_sets import ReferenceMolecule, read_archive
from rdgeodiff.evaluation.covmat import Spread, score
from rdgeodiff.evaluation.generators import EtkdgGenerator
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.samples import Result, SampleRequest

ARCHIVE = Path(__file__).parent / "data" / "val_qm9.npz"
SAMPLERS = ["langevin,5000", "ancestral,5000", "staged,100", "staged,50", "dpm_solver_pp_2m_sde,50"]
DELTA = 0.5  # Å
BATCH = 10


def main() -> None:
    """Draw what is still missing and print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--archive", type=Path, default=ARCHIVE)
    parser.add_argument("--molecules", type=int, default=3)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, metavar="NAME,STEPS")
    parser.add_argument("--beside", nargs="*", default=["default"], help="models, drawn their way")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after; 0 for no limit")
    parser.add_argument("--folder", type=Path, default=Path("runs/original_samplers"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    references = sorted(read_archive(args.archive), key=lambda r: len(r.positions))
    chosen = references[: args.molecules]
    cases = [(model, "", 0) for model in args.beside]
    for text in args.samplers:
        name, steps = text.split(",")
        cases.append((args.model, name, int(steps)))
    until = time.monotonic() + args.seconds if args.seconds else float("inf")
    print(
        f"{args.archive.name}, {len(chosen)} molecules of "
        f"{', '.join(str(r.mol.GetNumAtoms()) for r in chosen)} atoms, "
        f"{sum(len(r.positions) for r in chosen)} references, mean over molecules\n\n"
        f"| method | COV-R % ({DELTA} Å) | MAT-R Å | COV-P % | MAT-P Å | samples | not finite "
        "| CPU s/conformer |\n|---|---|---|---|---|---|---|---|"
    )
    for case in cases:
        print(line(case, [drawn(case, k, r, args.folder, until) for k, r in enumerate(chosen)]))
    rows = list(zip(chosen, EtkdgGenerator()([r.mol for r in chosen], counts(chosen)), strict=True))
    print(line(("ETKDGv3", "", 0), [(r, made.positions, made.seconds) for r, made in rows]))


def counts(chosen: list[ReferenceMolecule]) -> list[int]:
    """Conformers to make of each."""
    return [2 * len(r.positions) for r in chosen]


Drawn = tuple[ReferenceMolecule, np.ndarray, float]


def drawn(
    case: tuple[str, str, int], row: int, reference: ReferenceMolecule, folder: Path, until: float
) -> Drawn | None:
    """Samples (K, N, 3) in Å of one molecule and their CPU seconds; None if time ran out."""
    model, sampler, steps = case
    (count,) = counts([reference])
    graph = featurize(reference.mol)
    parts, seconds = [], 0.0
    for start in range(0, count, BATCH):
        path = folder / f"{Path(model).stem}-{sampler}-{steps}-{row}-{start}.npz"
        if not path.exists():
            if time.monotonic() > until:
                return None
            pipeline = Pipeline(load_model(model), sampler=sampler, steps=steps)
            made: dict[int, Result] = {}
            size = range(start, min(start + BATCH, count))
            began = time.process_time()
            pipeline.sample(
                [SampleRequest(graph, row, k, 0, 0) for k in size],
                on_result=lambda request, result, made=made: made.__setitem__(
                    request.conformer, result
                ),
            )
            spent = time.process_time() - began
            broken = np.full((graph.n_atoms, 3), np.nan)
            found = [made[k] if isinstance(made[k], np.ndarray) else broken for k in size]
            np.savez(path, positions=np.stack(found), seconds=spent)
        with np.load(path, allow_pickle=False) as stored:
            parts.append(stored["positions"])
            seconds += float(stored["seconds"])
    return reference, np.concatenate(parts), seconds


def line(case: tuple[str, str, int], found: list[Drawn | None]) -> str:
    """A line of the table."""
    model, sampler, steps = case
    name = " ".join(map(str, filter(None, [Path(model).stem, sampler, steps])))
    done = [f for f in found if f is not None]
    if len(done) < len(found):
        return f"| {name} | {len(found) - len(done)} molecules to do |" + " |" * 6
    scores, broken = [], 0
    for reference, positions, _ in done:
        finite = np.isfinite(positions).all((1, 2))
        broken += int((~finite).sum())
        rmsd = rmsd_matrix(reference.mol, positions[finite], reference.positions)
        scores.append(score(rmsd.values, (DELTA,)))
    samples = sum(len(positions) for _, positions, _ in done)
    cells = [
        _mean([s.cov_r[0] for s in scores], 1),
        _mean([s.mat_r for s in scores], 3),
        _mean([s.cov_p[0] for s in scores], 1),
        _mean([s.mat_p for s in scores], 3),
        str(samples),
        str(broken),
        f"{sum(seconds for *_, seconds in done) / samples:.4f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _mean(values: list[float | None], digits: int) -> str:
    mean = Spread.of(v for v in values if v is not None).mean
    return "–" if mean is None else f"{mean:.{digits}f}"


if __name__ == "__main__":
    main()
