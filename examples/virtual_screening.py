"""A shape screen in which ETKDG and diffusion take turns: the generator is one argument.

    python examples/virtual_screening.py [--generators etkdg diffusion stretched swift]
        [--conformers 10]
        [--poses ARCHIVE] [--library FILE] [--exclude FILE ...] [--out out]

Two questions, the same molecules and numbers for both. How near does the best of n conformers come
to a known pose (heavy-atom RMSD)? And do analogues of a ligand rank above decoys of their size when
every conformer is laid over the ligand's pose and scored by shape and by shape with colour?
"stretched" and "swift" are diffusion as it is meant for poses, with stretch=0.6; "swift" draws
heavy atoms first.

The defaults stand in the repository: computed conformers as poses, and as library molecules some of
which the model was trained on. For crystal poses give an archive of your own.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom, rdMolAlign, rdShapeAlign
from screening_set import Pose, Query, choose, read_library, read_poses

from rdgeodiff import EmbedMoleculeDiffusion

ROOT = Path(__file__).resolve().parent.parent
Embed = Callable[..., Sequence[int]]
GENERATORS: dict[str, Embed] = {
    "etkdg": rdDistGeom.EmbedMultipleConfs,
    "diffusion": EmbedMoleculeDiffusion,
    "stretched": functools.partial(EmbedMoleculeDiffusion, stretch=0.6),
    "swift": functools.partial(EmbedMoleculeDiffusion, stretch=0.6, model="swift"),
}
LABELS = {
    "etkdg": "ETKDGv3",
    "diffusion": "rdgeodiff",
    "stretched": "rdgeodiff, stretched",
    "swift": "swift, stretched",
}
COLORS = ("tab:gray", "tab:blue", "tab:green", "tab:orange")
EARLY = (0.05, 0.1)  # fractions of the ranked list for enrichment factors
_MATCHES = 2000  # equivalent numberings that an RMSD tries


@dataclass
class Outcome:
    """What a generator did; Å and s.

    Attributes:
        first, best: RMSD of the first and of the nearest conformer to each pose.
        auc: area under the ROC curve of each query, by score.
        early: enrichment factors of each query, one per fraction in EARLY, by score.
        curves: (decoys found, actives found) as fractions along each query's list, by score.
        seconds, cpu: by the clock and of all threads, spent making conformers.
        made, wanted: conformers.
    """

    first: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    auc: dict[str, list[float]] = field(default_factory=dict)
    early: dict[str, list[list[float]]] = field(default_factory=dict)
    curves: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    seconds: float = 0.0
    cpu: float = 0.0
    made: int = 0
    wanted: int = 0


def screen(poses: list[Pose], queries: list[Query], conformers: int, embed: Embed) -> Outcome:
    """Both questions for one generator."""
    outcome = Outcome()
    for pose in poses:
        mol = with_conformers(pose.smiles, conformers, embed, outcome)
        distances = rmsds(mol, pose)
        if distances:
            outcome.first.append(distances[0])
            outcome.best.append(min(distances))
    smiles = sorted({s for query in queries for s in (*query.actives, *query.decoys)})
    shapes = {}
    for one in smiles:
        mol = with_conformers(one, conformers, embed, outcome)
        shapes[one] = [rdShapeAlign.PrepareConformer(mol, c.GetId()) for c in mol.GetConformers()]
    for query in queries:
        rank(query, shapes, outcome)
    return outcome


def with_conformers(smiles: str, count: int, embed: Embed, outcome: Outcome) -> Chem.Mol:
    """The molecule without hydrogens, with what `embed` made of it."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    params = rdDistGeom.ETKDGv3()
    params.randomSeed = 7
    start, cpu = time.perf_counter(), time.process_time()
    embed(mol, count, params)  # the call that is swapped
    outcome.seconds += time.perf_counter() - start
    outcome.cpu += time.process_time() - cpu
    outcome.made += mol.GetNumConformers()
    outcome.wanted += count
    return Chem.RemoveHs(mol)


def rmsds(mol: Chem.Mol, pose: Pose) -> list[float]:
    """Heavy-atom RMSD of each conformer to the pose, symmetry counted."""
    reference = Chem.RemoveHs(pose.mol)
    return [
        rdMolAlign.GetBestRMS(mol, reference, prbId=c.GetId(), maxMatches=_MATCHES)
        for c in mol.GetConformers()
    ]


def rank(query: Query, shapes: dict[str, list], outcome: Outcome) -> None:
    """Score actives and decoys of a query; a molecule counts with its best conformer."""
    reference = rdShapeAlign.PrepareConformer(Chem.RemoveHs(query.pose.mol))
    scores: dict[str, list[float]] = {"shape": [], "shape and colour": []}
    # Decoys first: of equal scores theirs rank higher.
    for smiles in (*query.decoys, *query.actives):
        found = [rdShapeAlign.AlignShapes(reference, s, 0.5)[:2] for s in shapes[smiles]]
        # Without conformers a molecule cannot be found.
        scores["shape"].append(max((shape for shape, _ in found), default=0.0))
        scores["shape and colour"].append(max((sum(both) / 2 for both in found), default=0.0))
    active = np.arange(len(query.decoys) + len(query.actives)) >= len(query.decoys)
    for name, values in scores.items():
        hits = active[np.argsort(-np.array(values), kind="stable")]
        x, y = np.cumsum(~hits) / (~hits).sum(), np.cumsum(hits) / hits.sum()
        outcome.curves.setdefault(name, []).append((x, y))
        outcome.auc.setdefault(name, []).append(float(y[~hits].mean()))
        outcome.early.setdefault(name, []).append([enrichment(hits, f) for f in EARLY])


def enrichment(hits: np.ndarray, fraction: float) -> float:
    """Actives in the first part of the list over those a random order would have there."""
    top = max(1, round(fraction * len(hits)))
    return float(hits[:top].mean() / hits.mean())


def table(outcomes: dict[str, Outcome], conformers: int) -> str:
    """Markdown."""
    lines = []
    if any(o.best for o in outcomes.values()):
        lines += [
            f"| generator | poses | RMSD of 1 | RMSD, best of {conformers} | ≤ 1 Å | ≤ 2 Å |",
            "|---|---|---|---|---|---|",
        ]
        for name, o in outcomes.items():
            first, best = np.array(o.first), np.array(o.best)
            lines.append(
                f"| {LABELS[name]} | {len(best)} | {first.mean():.2f} Å | {best.mean():.2f} Å "
                f"| {(best <= 1).mean():.0%} | {(best <= 2).mean():.0%} |"
            )
        lines.append("")
    if any(o.auc for o in outcomes.values()):
        early = " | ".join(f"EF {f:.0%}" for f in EARLY)
        lines += [
            f"| generator | score | ROC AUC ± SE | {early} |",
            "|---" * (3 + len(EARLY)) + "|",
        ]
        for name, o in outcomes.items():
            for score, values in o.auc.items():
                auc = np.array(values)
                error = auc.std(ddof=1) / len(auc) ** 0.5 if len(auc) > 1 else float("nan")
                factors = " | ".join(f"{f:.1f}" for f in np.mean(o.early[score], axis=0))
                lines.append(
                    f"| {LABELS[name]} | {score} | {auc.mean():.3f} ± {error:.3f} | {factors} |"
                )
        lines.append("")
    lines += ["| generator | conformers | of | s | CPU s | CPU s per conformer |", "|---" * 6 + "|"]
    for name, o in outcomes.items():
        lines.append(
            f"| {LABELS[name]} | {o.made} | {o.wanted} | {o.seconds:.0f} | {o.cpu:.0f} "
            f"| {o.cpu / max(o.made, 1):.4f} |"
        )
    return "\n".join(lines)


def plot(outcomes: dict[str, Outcome], conformers: int, path: Path) -> None:
    """Poses found against RMSD, and mean ROC curves."""
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = np.linspace(0, 1, 101)
    for color, (name, o) in zip(COLORS, outcomes.items(), strict=False):
        distances = np.linspace(0, 4, 200)
        for values, style, what in [(o.first, ":", "1"), (o.best, "-", f"best of {conformers}")]:
            share = (np.array(values)[:, None] <= distances).mean(0) if values else 0 * distances
            left.plot(distances, share, style, color=color, label=f"{LABELS[name]}, {what}")
        for (score, curves), style in zip(o.curves.items(), (":", "-"), strict=False):
            mean = np.mean([np.interp(grid, (0, *x), (0, *y)) for x, y in curves], axis=0)
            right.plot(grid, mean, style, color=color, label=f"{LABELS[name]}, {score}")
    right.plot(grid, grid, color="0.8", lw=1, zorder=0)
    left.set(xlabel="heavy-atom RMSD to the pose / Å", ylabel="share of poses within", xlim=(0, 4))
    right.set(xlabel="decoys found", ylabel="actives found (mean over queries)", xlim=(0, 1))
    for axes in (left, right):
        axes.set_ylim(0, 1.01)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> None:
    """Choose the sets, run every generator, print the tables, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--generators", nargs="+", choices=GENERATORS, default=["etkdg", "diffusion"]
    )
    parser.add_argument("--conformers", type=int, default=10)
    parser.add_argument("--poses", type=Path, default=ROOT / "benchmarks/data/val_drugs.npz")
    parser.add_argument("--library", type=Path, default=ROOT / "data/train_drugs_gfnff.npz")
    parser.add_argument(
        "--exclude", type=Path, nargs="*", default=[], help="molecules to leave out of the library"
    )
    parser.add_argument("--recover", type=int, default=16, help="poses to look for")
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--actives", type=int, default=6, help="analogues a query, at most")
    parser.add_argument("--pool", type=int, default=60, help="decoys for all queries together")
    parser.add_argument("--similar", type=float, default=0.35, help="Tanimoto of an analogue")
    parser.add_argument("--heaviest", type=int, default=30, help="heavy atoms of any molecule")
    parser.add_argument("--out", type=Path, default=Path("out"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    RDLogger.DisableLog("rdApp.*")

    poses = read_poses(args.poses, args.heaviest)
    library = read_library(args.library, args.heaviest, args.exclude)
    queries = choose(
        poses,
        library,
        similar=args.similar,
        queries=args.queries,
        actives=args.actives,
        pool=args.pool,
    )
    for query in queries:
        print(f"{query.pose.smiles}: {len(query.actives)} actives, {len(query.decoys)} decoys")
    for name in args.generators:  # reads its model, if it has one
        GENERATORS[name](Chem.AddHs(Chem.MolFromSmiles("CC")), 1)
    outcomes = {
        name: screen(poses[: args.recover], queries, args.conformers, GENERATORS[name])
        for name in args.generators
    }
    print("\n" + table(outcomes, args.conformers))
    picture = args.out / "virtual_screening.png"
    plot(outcomes, args.conformers, picture)
    print(f"\n{picture}")


if __name__ == "__main__":
    main()
