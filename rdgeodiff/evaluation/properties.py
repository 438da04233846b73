"""Properties of ensembles: energies and HOMO-LUMO gaps of generated conformers (GeoDiff §5.3).

Every method makes the same number of conformers of a molecule from its graph; a quantum chemistry
program computes each as it comes, and the averages over them are set against those over the
reference conformers. Nothing is relaxed: a strained geometry shows as an error in the energy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rdkit import Chem
from tqdm.auto import tqdm

from rdgeodiff.chem.programs import stop_programs
from rdgeodiff.evaluation.covmat import Spread
from rdgeodiff.evaluation.generators import Generated, Generator
from rdgeodiff.evaluation.molecule_score import spread_out
from rdgeodiff.evaluation.published_properties import published_properties_table
from rdgeodiff.evaluation.quantum import QuantumError, QuantumProgram, SinglePoint
from rdgeodiff.evaluation.references import read_references

CONFORMERS = 50  # a molecule, as in the paper
_HEADINGS = {
    "energy_mean": "mean energy",
    "energy_min": "lowest energy",
    "gap_mean": "mean gap",
    "gap_min": "smallest gap",
    "gap_max": "largest gap",
}
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class EnsembleProperties:
    """Averages over the conformers of one molecule, or their errors, in eV; all weigh the same."""

    energy_mean: float
    energy_min: float
    gap_mean: float
    gap_min: float
    gap_max: float

    @classmethod
    def of(cls, points: Sequence[SinglePoint]) -> EnsembleProperties:
        """Averages over single points; raises ValueError for none."""
        if not points:
            raise ValueError("an ensemble without a single point has no properties")
        energies, gaps = np.array([(p.energy, p.gap) for p in points]).T
        values = (energies.mean(), energies.min(), gaps.mean(), gaps.min(), gaps.max())
        return cls(*map(float, values))

    def error(self, reference: EnsembleProperties) -> EnsembleProperties:
        """Absolute differences from `reference`."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(reference), strict=True)
        return EnsembleProperties(*(abs(a - b) for a, b in pairs))


@dataclass(frozen=True)
class Ensemble:
    """What was computed of one molecule's conformers from one source.

    Attributes:
        requested: conformers asked for.
        delivered: conformers there were.
        computed: those the program gave a result for.
        properties: averages over these, in eV; None where there are none.
        notes: counted causes of what is missing or was done differently.
        error: why the molecule could not be attempted, or what the program said first.
    """

    requested: int
    delivered: int
    computed: int
    properties: EnsembleProperties | None
    notes: dict[str, int] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class MoleculeProperties:
    """One molecule: its references and one ensemble a method."""

    smiles: str
    reference: Ensemble
    methods: dict[str, Ensemble]

    def error(self, method: str) -> EnsembleProperties | None:
        """Absolute errors in eV; None where one side has no result."""
        made, wanted = self.methods[method].properties, self.reference.properties
        return made.error(wanted) if made and wanted else None


@dataclass(frozen=True)
class PropertyReport:
    """All methods on one archive.

    Attributes:
        archive: name of the file.
        program, level: what computed, and at which level of theory.
        conformers: asked for a molecule; also the most references taken of one.
        methods: names, in order.
        molecules: those that are finished.
        interrupted: the run was stopped before all were.
    """

    archive: str
    program: str
    level: str
    conformers: int
    methods: tuple[str, ...]
    molecules: list[MoleculeProperties]
    interrupted: bool = False

    def summary(self, method: str) -> dict[str, Any]:
        """Mean and median absolute errors in eV over molecules, with nothing uncounted."""
        errors = [e for e in (m.error(method) for m in self.molecules) if e is not None]
        ensembles = [m.methods[method] for m in self.molecules]
        return {
            **{
                name: dataclasses.asdict(Spread.of(getattr(e, name) for e in errors))
                for name in _HEADINGS
            },
            "molecules": len(errors),
            "without_result": len(self.molecules) - len(errors),
            "requested": sum(e.requested for e in ensembles),
            "delivered": sum(e.delivered for e in ensembles),
            "computed": sum(e.computed for e in ensembles),
            "notes": _total_notes(ensembles),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "archive": self.archive,
            "program": self.program,
            "level": self.level,
            "conformers": self.conformers,
            "interrupted": self.interrupted,
            "summary": {method: self.summary(method) for method in self.methods},
            "molecules": [dataclasses.asdict(m) for m in self.molecules],
        }

    def to_markdown(self) -> str:
        """A heading, our table, counted remarks and the published rows."""
        references = [m.reference for m in self.molecules]
        lines = [
            f"### {self.archive}: {len(self.molecules)} molecules, {self.program} ({self.level}), "
            f"{self.conformers} conformers each",
            "",
            f"Absolute error in eV against {sum(r.computed for r in references)} reference "
            f"conformers (at most {self.conformers} a molecule), mean/median over molecules:",
            "",
            f"| method | {' | '.join(_HEADINGS.values())} | molecules | conformers computed |",
            "|" + "---|" * (len(_HEADINGS) + 3),
        ]
        remarks = ["- interrupted: not all molecules are in"] if self.interrupted else []
        remarks += _remark("references", _total_notes(references))
        for method in self.methods:
            summary = self.summary(method)
            cells = [_pair(summary[name]) for name in _HEADINGS]
            share = f"{summary['computed']} of {summary['requested']}"
            lines.append(f"| {method} | {' | '.join(cells)} | {summary['molecules']} | {share} |")
            without = summary["without_result"]
            notes = {"molecules without a result, not in the errors": without} if without else {}
            remarks += _remark(method, notes | summary["notes"])
        parts = ["\n".join(lines), "\n".join(remarks), published_properties_table()]
        return "\n\n".join(p for p in parts if p) + "\n"


def evaluate_properties(
    path: str | os.PathLike[str],
    generators: Sequence[Generator],
    program: QuantumProgram,
    *,
    conformers: int = CONFORMERS,
    molecules: int = 0,
    seed: int = 0,
    jobs: int = 1,
    progress: bool = True,
) -> PropertyReport:
    """Run the benchmark. Ctrl-C ends it, calculations included, with a report of what is finished.

    Args:
        path: file of reference ensembles, see `read_references`.
        generators: methods to compare.
        program: computes energies and orbitals.
        conformers: to generate of each molecule; of more references, as many are drawn at random.
        molecules: at most this many, taken at an even stride over the archive; 0 for all.
        seed: of that draw.
        jobs: calculations at the same time.
        progress: show bars that count molecules, then calculations.

    Raises:
        ArchiveError: the file is damaged.
    """
    chosen = spread_out(list(read_references(path)), molecules)
    draw = np.random.default_rng(seed)
    references = [r.positions[draw.permutation(len(r.positions))[:conformers]] for r in chosen]
    made: dict[str, list[Generated]] = {}
    for generator in generators:
        rows = generator([r.mol for r in chosen], [conformers] * len(chosen))
        bar = tqdm(rows, generator.name, len(chosen), unit="mol", disable=not progress)
        made[generator.name] = list(bar)

    # Molecule by molecule, so that an interrupted run has whole ones.
    sources = [
        [references[k], *(rows[k].positions for rows in made.values())] for k in range(len(chosen))
    ]
    tasks = [(r.mol, x) for r, parts in zip(chosen, sources, strict=True) for p in parts for x in p]
    results: list[MoleculeProperties] = []
    interrupted = False
    bar = tqdm(total=len(tasks), desc=program.name, unit="calc", disable=not progress)

    def compute(task: tuple[Chem.Mol, np.ndarray]) -> SinglePoint | QuantumError:
        try:
            return program.single_point(*task)
        except QuantumError as error:
            return error
        finally:
            bar.update()

    try:
        with bar, _in_order(compute, tasks, jobs) as outcomes:
            for k, (molecule, parts) in enumerate(zip(chosen, sources, strict=True)):
                found = [[next(outcomes) for _ in positions] for positions in parts]
                methods = {
                    name: _ensemble(points, conformers, rows[k].notes, rows[k].error)
                    for (name, rows), points in zip(made.items(), found[1:], strict=True)
                }
                reference = _ensemble(found[0], len(references[k]))
                results.append(MoleculeProperties(molecule.smiles, reference, methods))
    except KeyboardInterrupt:
        interrupted = True
    name, level = program.name, program.level
    return PropertyReport(
        Path(path).name, name, level, conformers, tuple(made), results, interrupted
    )


@contextlib.contextmanager
def _in_order(
    function: Callable[[_T], _R], tasks: Sequence[_T], jobs: int
) -> Iterator[Iterator[_R]]:
    """`map` on `jobs` threads; a block left early ends what runs and drops what has not begun."""
    # The work is done by other processes; threads only wait for them.
    pool = ThreadPoolExecutor(jobs)
    try:
        yield pool.map(function, tasks)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        stop_programs()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _ensemble(
    outcomes: Sequence[SinglePoint | QuantumError],
    requested: int,
    notes: dict[str, int] | None = None,
    error: str | None = None,
) -> Ensemble:
    points = [o for o in outcomes if isinstance(o, SinglePoint)]
    failures = [o for o in outcomes if isinstance(o, QuantumError)]
    counted = Counter(f"not computed {f.cause}" for f in failures)
    if failures and error is None:
        error = str(failures[0])
    properties = EnsembleProperties.of(points) if points else None
    all_notes = {**(notes or {}), **counted}
    return Ensemble(requested, len(outcomes), len(points), properties, all_notes, error)


def _total_notes(ensembles: Sequence[Ensemble]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for ensemble in ensembles:
        total.update(ensemble.notes)
    return dict(sorted(total.items()))


def _remark(name: str, notes: dict[str, int]) -> list[str]:
    facts = "; ".join(f"{cause} {count}" for cause, count in notes.items())
    return [f"- {name}: {facts}"] if facts else []


def _pair(spread: dict[str, float | None]) -> str:
    values = (spread["mean"], spread["median"])
    return "/".join("–" if v is None else f"{v:.4f}" for v in values)
