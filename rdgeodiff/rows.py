"""Molecules as rows of a library: what becomes of one does not depend on how the library is cut.

The row number is the key of a molecule's random streams, so a slice, a shard or a batch on another
machine gives it the conformers that one call over the whole library would (beyond float noise).
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from rdgeodiff import embed, opening
from rdgeodiff.chem.formats import Record
from rdgeodiff.parameters import DiffusionEmbedParameters
from rdgeodiff.results import EmbedResult, FailureCause, UnusableMoleculeError
from rdgeodiff.samples import SampleRequest, SampleSource
from rdgeodiff.task import Task

ROW_PROPERTY = "rdgeodiff_row"
OK, PARTIAL, FAILED = "ok", "partial", "failed"


@dataclass
class PreparedRow:
    """A row on its way.

    Attributes:
        record: the molecule as it was read; gets the conformers.
        task: what the network needs; None before and after, and where there is nothing to draw.
        result: what came of it; an empty one until `RowEmbedder.embed` has run.
    """

    record: Record
    task: Task | None
    result: EmbedResult

    @property
    def status(self) -> str:
        """OK, PARTIAL or FAILED."""
        if self.result.ok:
            return OK
        return PARTIAL if self.result.conf_ids else FAILED

    @property
    def why(self) -> str:
        """A sentence or counted causes for what is missing; "" where nothing is."""
        causes = ", ".join(f"{cause} {n}" for cause, n in self.result.failures.items() if n)
        return "" if self.result.ok else self.result.error or causes


class RowEmbedder:
    """Embeds rows with a model that is loaded once; a context manager.

    `prepare` may be called from another thread than `embed`; samples are judged in a thread of
    their own while the network draws the next batch.

    Args:
        count: conformers a row.
        settings: parameters of the call; a randomSeed of -1 is replaced by a new one.

    Raises:
        ValueError: negative count, or a parameter that makes no sense for rows of a library.
        CheckpointError: no such model.
    """

    def __init__(self, count: int, settings: DiffusionEmbedParameters) -> None:
        if count < 0:
            raise ValueError(f"numConfs must not be negative, but is {count}")
        if settings.timeout:
            raise ValueError("timeout: what is finished by a time differs from run to run")
        if settings.coordMap:
            raise ValueError("coordMap belongs to one molecule: use EmbedMoleculeDiffusion")
        seed = secrets.randbits(62) if settings.randomSeed < 0 else settings.randomSeed
        self.count = count
        self.settings = settings.updated(randomSeed=seed, progress=False, trackFailures=False)
        _bound_kernel_caches()
        self._pipeline = opening.open_source(self.settings)
        self._judges = ThreadPoolExecutor(1, "rdgeodiff-judge")

    @property
    def device(self) -> str:
        """Type of the device the network runs on."""
        return self._pipeline.device.type

    @property
    def model_sha256(self) -> str:
        """Of the weights."""
        return opening.shared_model(self.settings.model, str(self._pipeline.device)).info["sha256"]

    def prepare(self, record: Record) -> PreparedRow:
        """Features and judges of a row; one that cannot be attempted comes with its result."""
        result = EmbedResult(requested=self.count)
        if record.mol is None:
            result.error = record.error or "not a molecule"
            result.failures = {FailureCause.INVALID_INPUT.value: self.count}
            return PreparedRow(record, None, result)
        record.mol.SetIntProp(ROW_PROPERTY, record.row)
        try:
            task = Task(record.mol, record.row, self.count, self.settings)
            return PreparedRow(record, task, result)
        except UnusableMoleculeError as error:
            result.error = str(error)
            result.failures = {error.cause.value: self.count}
            return PreparedRow(record, None, result)

    def embed(
        self, rows: Sequence[PreparedRow], on_settled: Callable[[int], None] = lambda row: None
    ) -> None:
        """Draw, judge and deliver; fills `result` of every row and conformers of its molecule.

        Args:
            rows: together they are one stream of batches.
            on_settled: called with a row's number when its last conformer has been accepted.
        """
        tasks = {row.record.row: row.task for row in rows if row.task is not None}
        pipeline = _JudgedElsewhere(self._pipeline, self._judges, tasks, on_settled)
        embed.run_rounds(list(tasks.values()), self.settings, pipeline=pipeline)
        for row in rows:
            if row.task is not None:
                # Features and distance bounds are much larger than the conformers.
                row.result, row.task = row.task.result, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._judges.shutdown(wait=True, cancel_futures=True)


def _bound_kernel_caches() -> None:
    """Keep few of the kernels that torch's CPU library compiles in bfloat16, unless told otherwise.

    It compiles one for each shape of a batch. A library has thousands, and with the 1024 that are
    kept by default memory grows by a gigabyte. Read when the first kernel is made; too late, and
    without effect on the result, where this process has computed in bfloat16 before.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


class _JudgedElsewhere:
    """A pipeline whose samples are judged by another thread; a round ends when all are."""

    def __init__(
        self,
        pipeline: SampleSource,
        judges: ThreadPoolExecutor,
        tasks: dict[int, Task],
        on_settled: Callable[[int], None],
        settled: set[int] | None = None,
    ) -> None:
        self._pipeline, self._judges = pipeline, judges
        self._tasks, self._on_settled = tasks, on_settled
        self._settled: set[int] = set() if settled is None else settled

    @property
    def sigmas(self) -> list[float]:
        """See `Pipeline.sigmas`."""
        return self._pipeline.sigmas

    @property
    def device(self) -> torch.device:
        """See `SampleSource.device`."""
        return self._pipeline.device

    def starting_at(self, sigma: float) -> _JudgedElsewhere:
        """See `Pipeline.starting_at`; its samples are judged alike."""
        lower = self._pipeline.starting_at(sigma)
        return _JudgedElsewhere(lower, self._judges, self._tasks, self._on_settled, self._settled)

    def sample(
        self,
        requests: Sequence[SampleRequest],
        *,
        on_result: Callable[[SampleRequest, np.ndarray | FailureCause], None],
        **how: Any,
    ) -> None:
        """See `Pipeline.sample`; `on_result` is called in the order of the samples."""
        jobs: list[Future[None]] = []
        unjudged = Counter(request.row for request in requests)

        def judge(request: SampleRequest, sample: np.ndarray | FailureCause) -> None:
            row = request.row
            on_result(request, sample)
            unjudged[row] -= 1
            # With oversampling nothing may be missing long before the last sample.
            if not unjudged[row] and row not in self._settled and not self._tasks[row].missing():
                self._settled.add(row)
                self._on_settled(row)

        def later(request: SampleRequest, sample: np.ndarray | FailureCause) -> None:
            jobs.append(self._judges.submit(judge, request, sample))

        try:
            self._pipeline.sample(requests, on_result=later, **how)
        finally:
            # Also on Ctrl-C: nobody may touch a task while it is being delivered.
            for job in jobs:
                job.result()
