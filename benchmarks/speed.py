"""The speed front: seconds per conformer against atoms, n, molecules and steps, with the quality.

    python benchmarks/speed.py [--parts atoms counts molecules steps] [--threads 1 2]
        [--model NAME] [--langevin STEM] [--most-atoms 200] [--repeats 3]
        [--out benchmarks/results]

Medians of --repeats, the methods taking turns so that a busy machine slows all of them; what takes
longer than half a minute is measured once. Loading the model is not timed; checks, resampling and
writing conformers are. The part `steps` draws every conformer once, so that what few steps cost
in quality shows as conformers that fail the checks. --langevin names a model of the original's
type, which then runs its 5000 steps on the two smallest molecules of the ladder. Writes speed.json
(after every row), speed.md and speed.png into --out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rdkit import Chem
from tqdm.auto import tqdm

from rdgeodiff import EmbedMoleculesDiffusion
from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.data.conformer_sets import read_archive
from rdgeodiff.diffusion.samplers import network_calls
from rdgeodiff.evaluation.covmat import score, summarize
from rdgeodiff.evaluation.generators import make_generator

DATA = Path(__file__).parent / "data"
# A ladder of sizes, 9 to 198 atoms with hydrogens.
LADDER = {
    "ethanol": "CCO",
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "ibuprofen": "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O",
    "celecoxib": "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F",
    "sildenafil": "CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CCN(C)CC1",
    "atorvastatin": "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1"
    "CC[C@@H](O)C[C@@H](O)CC(=O)O",
    "decaalanine": "CC(=O)" + "N[C@@H](C)C(=O)" * 10 + "NC",
    "octadecaalanine": "CC(=O)" + "N[C@@H](C)C(=O)" * 18 + "NC",
}
METHODS = {
    "rdgeodiff": ("diffusion", {}),
    "rdgeodiff float32": ("diffusion", {"precision": "float32"}),
    "rdgeodiff swift": ("diffusion", {"model": "swift"}),
    "rdgeodiff dash": ("diffusion", {"model": "dash"}),
    "rdgeodiff fast": ("diffusion", {"model": "fast"}),
    "ETKDGv3": ("etkdg", {}),
    "ETKDGv3 + MMFF94s": ("etkdg+mmff", {}),
}
# Beyond, single precision tells nothing new and takes minutes.
FLOAT32_ATOMS, FLOAT32_COUNT = 80, 100
LONG = 30.0  # s
STEPS = (1, 2, 4, 7, 12)
COUNTS = (1, 3, 10, 30, 100, 300, 1000)
MOLECULES = (1, 4, 16, 64, 256)
Row = dict[str, Any]


def main() -> None:
    """Measure the parts asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"atoms": _atoms, "counts": _counts, "molecules": _molecules, "steps": _steps}
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most-atoms", type=int, default=200)
    parser.add_argument("--langevin", help="a model of the original's type")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    store = args.out / "speed.json"
    results = json.loads(store.read_text()) if store.exists() else {}
    if args.langevin:
        parts["langevin"] = _langevin
        args.parts = [*args.parts, "langevin"]
    for part in args.parts:
        results[part] = []
        for row in parts[part](args):
            results[part].append(row)
            store.write_text(json.dumps(results, indent=1) + "\n")
    (args.out / "speed.md").write_text(_page(results, args.model))
    _plot(results, args.out / "speed.png")


def _atoms(args: argparse.Namespace) -> Iterator[Row]:
    for name, smiles in tqdm(LADDER.items(), desc="atoms"):
        mol = _mol(smiles)
        if mol.GetNumAtoms() <= args.most_atoms:
            for threads in args.threads:
                labels = {"molecule": name, "atoms": mol.GetNumAtoms()}
                yield from _turns(args, mol, 10, threads, labels)


def _counts(args: argparse.Namespace) -> Iterator[Row]:
    mol = _mol(LADDER["aspirin"])
    for count in tqdm(COUNTS, desc="counts"):
        yield from _turns(args, mol, count, max(args.threads), {"conformers": count})


def _molecules(args: argparse.Namespace) -> Iterator[Row]:
    """One conformer of each of several molecules in one call, as in a screen."""
    pool = [r.mol for r in read_archive(DATA / "val_qm9.npz")]
    threads = max(args.threads)
    torch.set_num_threads(threads)
    for number in tqdm(MOLECULES, desc="molecules"):
        mols = [Chem.Mol(pool[k % len(pool)]) for k in range(number)]
        settings = {"model": args.model, "device": args.device, "numThreads": threads}

        def draw(mols: list[Chem.Mol] = mols, settings: dict = settings) -> int:
            return sum(len(r.conf_ids) for r in EmbedMoleculesDiffusion(mols, 1, **settings))

        seconds = _median(draw, args.repeats)
        yield {"molecules": number, "seconds_per_conformer": seconds, "threads": threads}


def _steps(args: argparse.Namespace) -> Iterator[Row]:
    """Quality and time of fewer network calls; as many draws as twice the references."""
    threads = max(args.threads)
    torch.set_num_threads(threads)
    sets = (("val_qm9", 3, 0.5), ("val_drugs", 4, 1.25))
    samplings = {model: load_model(model).sampling for model in (args.model, "fast")}
    for name, every, delta in sets:
        references = list(read_archive(DATA / f"{name}.npz"))[::every]
        once = {"maxIterations": 1}
        variants = [
            ("rdgeodiff", "diffusion", {"steps": s, "model": args.model, **once}) for s in STEPS
        ]
        variants += [
            (
                "rdgeodiff fast",
                "diffusion",
                {"model": "fast", "steps": samplings["fast"].steps, **once},
            ),
            ("ETKDGv3", "etkdg", {}),
        ]
        for label, method, options in tqdm(variants, desc=name):
            generator = make_generator(method, threads=threads, **options)
            mols, counts = [r.mol for r in references], [2 * len(r.positions) for r in references]
            made = list(generator(mols, counts))
            scores = [
                score(rmsd_matrix(r.mol, m.positions, r.positions).values, [delta])
                for r, m in zip(references, made, strict=True)
            ]
            total = summarize(scores)
            delivered = sum(len(m.positions) for m in made)
            yield {
                "set": name,
                "molecules": len(references),
                "delta": delta,
                "method": label,
                "calls": network_calls(samplings[options["model"]].sampler, options["steps"])
                if "steps" in options
                else None,
                "cov_r": total.cov_r[0].mean,
                "mat_r": total.mat_r.mean,
                "cov_p": total.cov_p[0].mean,
                "mat_p": total.mat_p.mean,
                "delivered": 100.0 * delivered / sum(counts),
                "seconds_per_draw": sum(m.seconds for m in made) / sum(counts),
            }


def _langevin(args: argparse.Namespace) -> Iterator[Row]:
    for name in list(LADDER)[:2]:
        mol = _mol(LADDER[name])
        options = {"model": args.langevin, "sampler": "langevin", "maxIterations": 1}
        generator = make_generator("diffusion", threads=max(args.threads), **options)
        (made,) = generator([mol], [4])
        yield {
            "molecule": name,
            "atoms": mol.GetNumAtoms(),
            "seconds_per_conformer": made.seconds / 4,
            "accepted": len(made.positions),
            "drawn": 4,
        }


def _turns(
    args: argparse.Namespace, mol: Chem.Mol, count: int, threads: int, labels: Row
) -> list[Row]:
    torch.set_num_threads(threads)
    small = mol.GetNumAtoms() <= FLOAT32_ATOMS and count <= FLOAT32_COUNT
    methods = {m: v for m, v in METHODS.items() if small or "float32" not in m}
    seconds: dict[str, list[float]] = {m: [] for m in methods}
    for repeat in range(args.repeats):
        for label, (method, options) in methods.items():
            if seconds[label] and seconds[label][0] * count > LONG:
                continue
            if method == "diffusion":
                options = {"model": args.model, "device": args.device, **options}
            generator = make_generator(method, seed=repeat, threads=threads, **options)
            (made,) = generator([mol], [count])
            seconds[label].append(made.seconds / max(len(made.positions), 1))
    return [
        {**labels, "threads": threads, "method": m, "seconds_per_conformer": statistics.median(s)}
        for m, s in seconds.items()
    ]


def _median(draw: Callable[[], int], repeats: int) -> float:
    """Seconds per conformer; the first, unmeasured run loads the model."""
    draw()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        count = draw()
        times.append((time.perf_counter() - start) / max(count, 1))
    return statistics.median(times)


def _mol(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


TITLES = {
    "atoms": "Seconds per conformer against size, n = 10",
    "counts": "Seconds per conformer against n (aspirin, 21 atoms)",
    "molecules": "One conformer of each of several QM9-size molecules in one call",
    "steps": "Quality against network calls; every conformer drawn once",
    "langevin": "A network of the original's type with 5000 steps",
}


def _page(results: dict[str, list[Row]], model: str) -> str:
    lines = ["# Speed", "", f"`python benchmarks/speed.py {' '.join(sys.argv[1:])}`", ""]
    lines += [f"{_processor()}; PyTorch {torch.__version__}; model `{model}`.", ""]
    for part, rows in ((p, results[p]) for p in TITLES if results.get(p)):
        rows = _by_method(rows) if part in ("atoms", "counts") else rows
        names = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"## {TITLES[part]}", ""]
        lines += ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
        lines += ["| " + " | ".join(_cell(row.get(k)) for k in names) + " |" for row in rows]
        lines.append("")
    lines += ["![seconds per conformer](speed.png)", ""]
    return "\n".join(lines)


def _by_method(rows: list[Row]) -> list[Row]:
    """One row for what was measured alike, one column for each method."""
    wide: dict[tuple, Row] = {}
    for row in rows:
        labels = {k: v for k, v in row.items() if k not in ("method", "seconds_per_conformer")}
        found = wide.setdefault(tuple(labels.values()), labels)
        found[row["method"]] = row["seconds_per_conformer"]
    return list(wide.values())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _plot(results: dict[str, list[Row]], path: Path) -> None:
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, part, key in ((left, "atoms", "atoms"), (middle, "counts", "conformers")):
        rows = results.get(part, [])
        top = max((r["threads"] for r in rows), default=1)
        for method in METHODS:
            own = [r for r in rows if r["method"] == method and r["threads"] == top]
            axes.loglog(
                [r[key] for r in own], [r["seconds_per_conformer"] for r in own], "o-", label=method
            )
        axes.set(xlabel=key, ylabel="s per conformer", title=f"{top} threads")
    left.legend(fontsize=8)
    for name in ("val_qm9", "val_drugs"):
        rows = [r for r in results.get("steps", []) if r["set"] == name]
        own = [r for r in rows if r["method"] == "rdgeodiff"]
        right.plot(
            [r["calls"] for r in own], [r["cov_r"] for r in own], "o-", label=f"{name} COV-R"
        )
        right.plot(
            [r["calls"] for r in own], [r["cov_p"] for r in own], "s--", label=f"{name} COV-P"
        )
    right.set(xlabel="network calls", ylabel="%", title="quality against calls")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
