"""SMILES in, conformers at GFN2-xTB out; stopped anywhere, the same call goes on.

Molecules are made side by side, each by one thread that waits for an xtb of one thread. What is
made of a molecule depends on the molecule, the recipe and the seed alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.formats import Record
from rdgeodiff.chem.programs import installed
from rdgeodiff.chem.readers import count_molecules, read_molecules
from rdgeodiff.chem.xtb import XtbProgram
from rdgeodiff.datasets.journal import Entry, Journal, Totals
from rdgeodiff.datasets.molecules import Candidate, Gate, RefusedError, graph_keys
from rdgeodiff.datasets.recipe import MMFF, Maker, Recipe
from rdgeodiff.datasets.seeds import make_seeds
from rdgeodiff.screen.beginning import identity_of, locked

_SCRATCH = ".scratch"


@dataclass
class BuildReport:
    """What a call left behind.

    Attributes:
        totals: of all settled molecules, those of earlier calls included.
        resumed: molecules that were settled when the call began.
        unfinished: molecules were left when the budget was used up.
        interrupted: stopped with Ctrl-C.
    """

    totals: Totals
    resumed: int = 0
    unfinished: bool = False
    interrupted: bool = False


def build_dataset(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    max_heavy_atoms: int = 0,
    exclude: Sequence[str | os.PathLike[str]] = (),
    budget: float = float("inf"),
    jobs: int = 1,
    timeout: float = 600.0,
    progress: bool = True,
) -> BuildReport:
    """Make conformers of the molecules of a file.

    Args:
        source: any file of molecules `read_molecules` reads.
        folder: gets the journal; made if it is not there, continued if it was begun alike.
        recipe: what to make of a molecule.
        max_heavy_atoms: larger molecules are refused; 0 takes any.
        exclude: archives or files of molecules that are left out, compared without stereo.
        budget: hours after which no further molecule is begun.
        jobs: molecules at a time; 0 for one a core.
        timeout: s an optimisation may take.
        progress: show a bar that counts molecules.

    Returns:
        The account; an interrupt is told there, all that was settled by then is safe.

    Raises:
        FileNotFoundError: no xtb where the recipe needs it; says how to install it.
        JournalError, ManifestError: the folder belongs to another build, or one runs in it.
        ReaderError, ValueError: the call itself is wrong.
    """
    recipe = Recipe() if recipe is None else recipe
    source, folder = Path(source), Path(folder)
    if budget < 0 or jobs < 0 or timeout <= 0:
        raise ValueError("budget and jobs must not be negative, timeout must be above 0")
    needs_xtb = recipe.method != MMFF
    if needs_xtb:
        installed("xtb")
    excluded = graph_keys(exclude)
    header = {
        **_versions(recipe),
        "input_sha256": identity_of(source)["sha256"],
        "excluded": len(excluded),
        "max_heavy_atoms": max_heavy_atoms,
        **recipe.to_dict(),
    }
    if recipe.seeds_from == "diffusion":
        header["model_sha256"] = load_model(recipe.model).info["sha256"]
    with locked(folder):
        scratch = folder / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # of a build that was killed
        scratch.mkdir()
        journal = Journal(folder, header)
        try:
            work = _Work(
                source,
                journal,
                recipe,
                XtbProgram(timeout, recipe.solvent, scratch.resolve()) if needs_xtb else None,
                Gate(recipe.seed, max_heavy_atoms, excluded),
                time.monotonic() + 3600.0 * budget,
            )
            return work.run(jobs or os.cpu_count() or 1, progress)
        finally:
            journal.close()
            shutil.rmtree(scratch, ignore_errors=True)


class _Work:
    """One build: this thread reads and writes, others make."""

    def __init__(
        self,
        source: Path,
        journal: Journal,
        recipe: Recipe,
        xtb: XtbProgram | None,
        gate: Gate,
        deadline: float,
    ) -> None:
        self._source, self._journal, self._gate = source, journal, gate
        self._deadline = deadline
        self._stop = threading.Event()
        seeds = make_seeds(recipe.seeds_from, recipe.model)
        self._maker = Maker(recipe, xtb, seeds, self._stop.is_set)

    def run(self, jobs: int, progress: bool) -> BuildReport:
        report = BuildReport(self._journal.totals, len(self._journal.rows))
        going: set[Future[Entry]] = set()
        total = count_molecules(self._source) if progress else None
        bar = tqdm(total=total, initial=report.resumed, unit="mol", disable=not progress)
        pool = ThreadPoolExecutor(jobs, "rdgeodiff-xtb")
        with bar:
            try:
                for record, candidate in self._candidates(bar):
                    while len(going) >= jobs:
                        going = self._settle(going, bar)
                    if time.monotonic() >= self._deadline:
                        report.unfinished = True
                        break
                    going.add(pool.submit(self._make, record, candidate))
                while going:
                    going = self._settle(going, bar)
            except KeyboardInterrupt:
                report.interrupted = report.unfinished = True
            finally:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        return report

    def _candidates(self, bar: Any) -> Iterator[tuple[Record, Candidate]]:
        """Molecules still to be made; those refused are written down on the way."""
        for record in read_molecules(self._source, add_hs=False):
            try:
                candidate = self._gate.admit(record)
            except RefusedError as error:
                if record.row not in self._journal.rows:
                    named = record.row, record.name, record.text
                    self._write(Entry(*named, cause=str(error.cause), why=str(error)), bar)
                continue
            if record.row not in self._journal.rows:
                yield record, candidate

    def _make(self, record: Record, candidate: Candidate) -> Entry:
        start = time.monotonic()
        made = self._maker.make(candidate)
        seconds = time.monotonic() - start
        return Entry.of(record.row, record.name, candidate.smiles, made, seconds)

    def _settle(self, going: set[Future[Entry]], bar: Any) -> set[Future[Entry]]:
        """Write what is done, once something is; returns what is not."""
        done, going = wait(going, return_when=FIRST_COMPLETED)
        for future in done:
            self._write(future.result(), bar)
        return going

    def _write(self, entry: Entry, bar: Any) -> None:
        self._journal.append(entry)
        bar.update()
        bar.set_postfix(conformers=self._journal.totals.conformers, refresh=False)


def _versions(recipe: Recipe) -> dict[str, str]:
    found = {}
    for name in ("rdgeodiff", "rdkit"):
        try:
            found[f"{name}_version"] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[f"{name}_version"] = "unknown"
    if recipe.method == MMFF:
        return {**found, "theory": recipe.theory}
    words = subprocess.run(
        [installed("xtb"), "--version"], capture_output=True, text=True, check=False, timeout=60
    ).stdout.split()
    found["xtb_version"] = words[words.index("version") + 1] if "version" in words[:-1] else "?"
    return {**found, "theory": recipe.theory}
