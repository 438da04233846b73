"""Conformers for RDKit molecules: Mol → graphs → samples → verdicts → resampling → conformers.

`EmbedMoleculeDiffusion` takes the place of RDKit's `EmbedMultipleConfs`; `EmbedMoleculesDiffusion`
does the same for many molecules in one stream of batches, which is what a GPU wants.
"""

from __future__ import annotations

import dataclasses
import operator
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from tqdm.auto import tqdm

from rdgeodiff import opening
from rdgeodiff.chem.validate import describe
from rdgeodiff.parameters import DiffusionEmbedParameters
from rdgeodiff.results import EmbedResult, FailureCause, UnusableMoleculeError
from rdgeodiff.samples import SampleRequest, SampleSource, further_seed
from rdgeodiff.task import Task

# A sample whose bonds are off is noised to this level (Å) and denoised again: far enough for a
# hydrogen to choose another place, and not for the conformer to become another one.
MENDING_SIGMA = 0.5

Params = DiffusionEmbedParameters | rdDistGeom.EmbedParameters | None

# Keywords of EmbedMultipleConfs that steer distance geometry: accepted, so that a call can be
# switched by its name alone, and without effect here.
IGNORED_KEYWORDS = frozenset(
    "useRandomCoords boxSizeMult randNegEig numZeroFail forceTol ignoreSmoothingFailures "
    "useExpTorsionAnglePrefs useBasicKnowledge printExpTorsionAngles useSmallRingTorsions "
    "useMacrocycleTorsions ETversion useMacrocycle14config".split()
)


def EmbedMoleculeDiffusion(
    mol: Chem.Mol, numConfs: int = 10, params: Params = None, **overrides: Any
) -> list[int]:
    """Add conformers to `mol`; the diffusion counterpart of RDKit's EmbedMultipleConfs.

    Every conformer written is finite, has the specified tetrahedral and double-bond stereo, and has
    plausible bonds, angles and contacts. What cannot be made so is missing from the returned ids.

    Args:
        mol: sanitised; only its conformers change. Without explicit hydrogens it works as with
            RDKit: a warning is logged and only the atoms that are there get positions.
        numConfs: conformers wanted.
        params: `DiffusionEmbedParameters`, or an RDKit object such as ETKDGv3() (see
            `DiffusionEmbedParameters.from_rdkit` for what is honoured).
        **overrides: single parameters by name. Keywords written for EmbedMultipleConfs work:
            maxAttempts is maxIterations, those in `IGNORED_KEYWORDS` have no effect.

    Returns:
        Ids of the new conformers; [-1], with nothing added, if `timeout` ran out.

    Raises:
        TypeError: not a Mol, or an unknown keyword.
        ValueError: a molecule that cannot be attempted (no atoms, not sanitised, queries, dummy
            atoms, elements the model has not seen, too many atoms, unspecified stereo under
            `strictStereo`), negative numConfs, or a coordinate map with an index outside the
            molecule, a position that is not finite, or places no conformer can have.
    """
    settings = settings_of(params, overrides)
    count = _count(numConfs, mol, 0)
    if not isinstance(mol, Chem.Mol):
        raise TypeError(f"mol must be an RDKit Mol, not {type(mol).__name__}")
    result = run_rounds([Task(mol, 0, count, settings)], settings, all_or_nothing=True)[0]
    if settings.trackFailures and isinstance(params, DiffusionEmbedParameters):
        params.record_failures(result.rejections)
    return [-1] if FailureCause.EXCEEDED_TIMEOUT in result.failures else result.conf_ids


def EmbedConformerDiffusion(mol: Chem.Mol, params: Params = None, **overrides: Any) -> int:
    """Give `mol` one conformer; the diffusion counterpart of RDKit's EmbedMolecule.

    Arguments and errors are those of `EmbedMoleculeDiffusion`, whose first conformer this is.

    Returns:
        id of the conformer, or -1 if none could be made.
    """
    ids = EmbedMoleculeDiffusion(mol, 1, params, **overrides)
    return ids[0] if ids else -1


def EmbedMoleculesDiffusion(
    mols: Iterable[Chem.Mol | None],
    numConfs: int | Sequence[int] = 10,
    params: Params = None,
    **overrides: Any,
) -> list[EmbedResult]:
    """Add conformers to many molecules in one stream of batches.

    Args:
        mols: molecules; one that cannot be attempted, None included, is reported in its result and
            stops nothing.
        numConfs: conformers wanted of each, or one number per molecule.
        params: as in `EmbedMoleculeDiffusion`. A timeout counts for the whole call; conformers
            finished by then are kept.
        **overrides: as in `EmbedMoleculeDiffusion`.

    Returns:
        One result per molecule, in order. Interrupted with Ctrl-C, the conformers finished so far
        are on their molecules before KeyboardInterrupt goes on.

    Raises:
        TypeError: a single Mol instead of several, or an unknown keyword.
        ValueError: as many numbers as molecules were not given, one is negative, or `coordMap` is
            set.
    """
    if isinstance(mols, Chem.Mol | str):
        raise TypeError("mols must be several molecules; for one use EmbedMoleculeDiffusion")
    settings = settings_of(params, overrides)
    if settings.coordMap:
        raise ValueError("coordMap belongs to one molecule: use EmbedMoleculeDiffusion")
    molecules = list(mols)
    if isinstance(numConfs, Sequence | np.ndarray):
        if len(numConfs) != len(molecules):
            raise ValueError(f"{len(numConfs)} values of numConfs for {len(molecules)} molecules")
        counts = [_count(n, m, k) for k, (n, m) in enumerate(zip(numConfs, molecules, strict=True))]
    else:
        counts = [_count(numConfs, None, 0)] * len(molecules)
    results: list[EmbedResult] = [EmbedResult(requested=n) for n in counts]
    tasks = []
    for row, (mol, count) in enumerate(zip(molecules, counts, strict=True)):
        try:
            tasks.append(Task(mol, row, count, settings))
        except UnusableMoleculeError as error:
            results[row].error = str(error)
            results[row].failures = {error.cause.value: count}
    for task, result in zip(tasks, run_rounds(tasks, settings), strict=True):
        results[task.row] = result
    if settings.trackFailures and isinstance(params, DiffusionEmbedParameters):
        params.record_failures(dict(sum((Counter(r.rejections) for r in results), Counter())))
    return results


def run_rounds(
    tasks: Sequence[Task],
    settings: DiffusionEmbedParameters,
    *,
    all_or_nothing: bool = False,
    pipeline: SampleSource | None = None,
) -> list[EmbedResult]:
    """Draw, judge and draw again until nothing is missing, then deliver; the heart of every call.

    Args:
        tasks: with rows of their own.
        settings: parameters of the call.
        all_or_nothing: a timeout takes back what was finished, as in RDKit's single call.
        pipeline: to draw from; opened as the settings say if not given.
    """
    started = time.monotonic()
    deadline = started + settings.timeout if settings.timeout else None
    seed = secrets.randbits(62) if settings.randomSeed < 0 else settings.randomSeed
    waiting = {task.row: task for task in tasks if task.missing()}
    # A model that cannot be loaded must be noticed before any molecule is touched.
    if pipeline is None and waiting:
        pipeline = opening.open_source(settings)
    if settings.clearConfs:
        for task in tasks:
            task.mol.RemoveAllConformers()
    with tqdm(total=len(tasks), unit="mol", disable=not settings.progress) as bar:
        bar.update(len(tasks) - len(waiting))
        try:
            for attempt in range(settings.rounds):
                if not waiting or pipeline is None:
                    break
                _draw(pipeline, waiting, settings, seed, attempt, started, deadline)
                still = {row: task for row, task in waiting.items() if task.missing()}
                bar.update(len(waiting) - len(still))
                waiting = still
        except KeyboardInterrupt:
            deadline = started  # nothing is relaxed any more
            raise
        finally:
            _settle(tasks, settings, all_or_nothing, deadline)
            for task in tasks:
                task.deliver(settings, all_or_nothing)
    return [task.result for task in tasks]


def _settle(
    tasks: Sequence[Task],
    settings: DiffusionEmbedParameters,
    all_or_nothing: bool,
    deadline: float | None,
) -> None:
    """Relax and prune, which take RDKit's time and no network's: molecules in parallel."""
    if settings.numThreads == 1 or len(tasks) < 2:
        for task in tasks:
            task.settle(settings, all_or_nothing, deadline)
        return
    # Threads over molecules instead of over the conformers of one.
    single = settings.updated(numThreads=1)
    workers = settings.numThreads or os.cpu_count()
    with ThreadPoolExecutor(workers, "rdgeodiff-settle") as pool:
        list(pool.map(lambda task: task.settle(single, all_or_nothing, deadline), tasks))


def _draw(
    pipeline: SampleSource,
    waiting: dict[int, Task],
    settings: DiffusionEmbedParameters,
    seed: int,
    attempt: int,
    started: float,
    deadline: float | None,
) -> None:
    """One sample for everything that is still missing; the last one, mended, where that helps."""
    fresh, faulty, fragment_of = [], [], {}
    for row, task in waiting.items():
        task.result.rounds = attempt + 1
        for conformer, fragment in task.missing():
            stream = _fragment_seed(seed, fragment)
            fragment_of[stream, row, conformer] = fragment
            request = SampleRequest(
                task.graphs[fragment],
                row,
                conformer,
                attempt,
                stream,
                held=task.held[fragment],
                start=task.start(conformer, fragment),
            )
            shaken = task.mendable(conformer, fragment)
            if shaken is None or pipeline.sigmas[0] <= MENDING_SIGMA:
                fresh.append(request)
            else:
                faulty.append(dataclasses.replace(request, start=shaken))

    def on_result(request: SampleRequest, sample: np.ndarray | FailureCause) -> None:
        fragment = fragment_of[request.seed, request.row, request.conformer]
        task = waiting[request.row]
        task.take(request.conformer, fragment, attempt, sample)
        task.result.seconds = time.monotonic() - started

    # The first round shows what the model does by itself; later ones are steered to the right hand.
    guided = attempt > 0 and settings.enforceChirality
    pipeline.sample(fresh, guided=guided, deadline=deadline, on_result=on_result)
    if faulty:
        mender = pipeline.starting_at(MENDING_SIGMA)
        mender.sample(faulty, guided=guided, deadline=deadline, on_result=on_result)


def _fragment_seed(seed: int, fragment: int) -> int:
    """A seed for each fragment, so that two equal ones (waters, say) do not get equal positions."""
    return further_seed(seed, fragment) if fragment else seed


def settings_of(params: Params, overrides: dict[str, Any]) -> DiffusionEmbedParameters:
    """Parameters of a call from what the caller handed over."""
    if params is None:
        settings = DiffusionEmbedParameters()
    elif isinstance(params, DiffusionEmbedParameters):
        settings = params
    elif isinstance(params, rdDistGeom.EmbedParameters):
        settings = DiffusionEmbedParameters.from_rdkit(
            params, rdDistGeom.EmbedParametersToJSON(params)
        )
    else:
        kind = type(params).__name__
        raise TypeError(f"params must be DiffusionEmbedParameters or EmbedParameters, not {kind}")
    ours = {k: v for k, v in overrides.items() if k not in IGNORED_KEYWORDS}
    if "maxAttempts" in ours:
        ours["maxIterations"] = ours.pop("maxAttempts")
    try:
        return settings.updated(**ours)
    except AttributeError as error:
        raise TypeError(f"unknown keyword: {error}") from None


def _count(value: Any, mol: Any, row: int) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"numConfs must be a whole number, not {value!r}") from None
    if count < 0:
        what = f" for {describe(mol, row)}" if mol is not None else ""
        raise ValueError(f"numConfs must not be negative, but is {count}{what}")
    return count
