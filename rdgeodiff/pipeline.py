"""A model on a device: requests for samples in, positions out.

One stream of batches over all conformers of all molecules, packed by size under a budget of padded
pairs. Every sample has its own random stream, and is padded by its own size alone and not by its
neighbours', so what it becomes does not depend on its batch: in bfloat16 sums over a longer row
would be rounded differently, and by more than float noise. So would those of a sample that is alone
in its batch, for which matrix libraries have other kernels: it is drawn beside a copy of itself.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from threading import Event

import numpy as np
import torch

from rdgeodiff.architectures import Process
from rdgeodiff.diffusion.guidance import guide_stereo
from rdgeodiff.diffusion.holding import hold_positions
from rdgeodiff.diffusion.stretching import stretch
from rdgeodiff.geometry import center
from rdgeodiff.graph import MolBatch
from rdgeodiff.model_file import Model
from rdgeodiff.precision import takes_bf16
from rdgeodiff.results import FailureCause
from rdgeodiff.samples import OnResult, Result, SampleRequest, stream_of
from rdgeodiff.side_by_side import cores_for, evenly, side_by_side

logger = logging.getLogger(__name__)

# Molecules are padded to a multiple of this: a GPU wants few, full batches, a CPU no padding.
PAD_STEP = {"cpu": 1, "cuda": 8}
# Beyond 16,000 pairs a CPU waits for memory: half as slow again at 24,000.
DEFAULT_PAIRS = {"cpu": 16_000, "cuda": 2_000_000}


class DeadlineError(Exception):
    """Raised between two steps when the time is up; never leaves this module."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """When a batch has to stop: after `deadline` on the monotonic clock, or once `stop` is set."""

    deadline: float | None
    stop: Event

    def check(self) -> None:
        """Raise DeadlineError if it is time."""
        late = self.deadline is not None and time.monotonic() > self.deadline
        if late or self.stop.is_set():
            raise DeadlineError


class Pipeline:
    """Draws samples from a model.

    Args:
        model: the network, already on `device`.
        device: torch device.
        batch_pairs: padded atom pairs in a batch; 0 for the device's default. A processor draws
            several batches at once (`rdgeodiff.side_by_side`).
        sampler: name of a sampler (see `rdgeodiff.architectures`); "" for the model's default.
        steps: noise levels; 0 for the model's default, which may depend on a molecule's size.
        precision: of the network's matrix products: "float32", "bfloat16" or "auto", which is
            bfloat16 on devices that compute with it and float32 elsewhere.
        guidance: weight of the model's guide; negative for the model's own, 0 for none.
        stretch: share by which molecules are stretched out (`rdgeodiff.diffusion.stretching`).
        climbs: see `rdgeodiff.sampling.Sampling`; 0 for the model's default.

    Raises:
        ValueError: unknown sampler or precision, or a number of steps the sampler cannot take.
    """

    def __init__(
        self,
        model: Model,
        device: str | torch.device = "cpu",
        batch_pairs: int = 0,
        sampler: str = "",
        steps: int = 0,
        precision: str = "auto",
        guidance: float = -1.0,
        stretch: float = 0.0,
        climbs: int = 0,
    ) -> None:
        self.device = torch.device(device)
        self._model = model
        self._name = sampler or model.sampling.sampler
        self._sampler = model.process.sampler(self._name)
        sampling = model.sampling
        if climbs:
            sampling = dataclasses.replace(sampling, climbs=climbs)
        self._levels: Callable[..., list[float]] = functools.partial(
            model.process.noise_levels, sampling, self._name, steps
        )
        self.sigmas = self._levels()
        ours = self._name == model.sampling.sampler
        self._noise_scale = model.sampling.noise_scale if ours else 1.0
        self._guidance, self._stretch = guidance, stretch
        self._bf16 = takes_bf16(self.device, precision)
        self._fewest = 2 if self._bf16 else 1  # samples in a batch, copies included
        self._alone = False  # one batch at a time
        self.batch_pairs = batch_pairs or DEFAULT_PAIRS.get(self.device.type, DEFAULT_PAIRS["cpu"])

    def starting_at(self, sigma: float) -> Pipeline:
        """The same pipeline with noise levels from `sigma` (Å) down, for requests with a `start`.

        Raises:
            ValueError: above the model's highest noise level, or not above 0.
        """
        if not 0 < sigma <= self.sigmas[0]:
            raise ValueError(f"sigma must lie above 0 and up to {self.sigmas[0]:g} Å, not {sigma}")
        # Straight down, where levels rise again: what has a start is not to leave it.
        falling = np.unique(np.minimum.accumulate(self.sigmas))[::-1]
        return self.on_levels([sigma, *(s for s in falling.tolist() if 0 < s < sigma)])

    def on_levels(self, levels: Sequence[float]) -> Pipeline:
        """The same pipeline on these noise levels in Å, which decrease, and 0."""
        other = copy.copy(self)
        other.sigmas = [*(float(level) for level in levels), 0.0]
        other._levels = lambda atoms: other.sigmas
        return other

    def sample(
        self,
        requests: Sequence[SampleRequest],
        *,
        on_result: OnResult,
        guided: bool = False,
        deadline: float | None = None,
    ) -> None:
        """Draw every request and report it through `on_result`, batch by batch.

        Args:
            requests: in any order; results come grouped by size.
            on_result: receives positions (N, 3) float64 in Å, or the cause of failure.
            guided: steer specified centres towards their hand.
            deadline: `time.monotonic()` after which nothing more is started; what is unfinished
                then is reported as EXCEEDED_TIMEOUT, within one denoising step.
        """
        waiting = sorted(requests, key=lambda r: r.graph.n_atoms, reverse=True)
        while waiting:
            waiting = self._round(waiting, on_result, guided, deadline)

    def _round(
        self,
        waiting: list[SampleRequest],
        on_result: OnResult,
        guided: bool,
        deadline: float | None,
    ) -> list[SampleRequest]:
        """Draw and report requests, sorted by size, up to a batch that does not fit into memory;
        returns those that are left, for smaller batches."""
        cores, stop, done = 1 if self._alone else cores_for(self.device), Event(), 0
        batches = self._batches(waiting, cores)
        jobs = [functools.partial(self._run, b, guided, Limit(deadline, stop)) for b in batches]
        with side_by_side(jobs, cores, stop) as outcomes:
            for batch, outcome in zip(batches, outcomes, strict=True):
                try:
                    results = outcome()
                except DeadlineError:
                    results = [FailureCause.EXCEEDED_TIMEOUT] * len(batch)
                except (RuntimeError, MemoryError) as error:
                    if not _is_out_of_memory(error):
                        raise
                    if max(len(batch), self._fewest, cores) > 1:
                        self._shrink(batch)
                        break
                    results = [FailureCause.OUT_OF_MEMORY]
                for request, result in zip(batch, results, strict=True):
                    on_result(request, result)
                done += len(batch)
        return waiting[done:]

    def _batches(self, waiting: list[SampleRequest], cores: int) -> list[list[SampleRequest]]:
        """Requests, sorted by size, in batches of one padded size each."""
        groups = [list(group) for _, group in itertools.groupby(waiting, self._padded)]
        found = []
        for group in groups:
            cost = self._padded(group[0]) ** 2
            most = max(self._fewest, self.batch_pairs // cost)
            # Where there are many sizes, their batches keep the cores busy as they are.
            beside = cores if len(groups) < cores else 1
            parts = iter(group)
            for size in evenly(len(group), self._fewest, most, cost, beside):
                found.append(list(itertools.islice(parts, size)))
        return found

    def _padded(self, request: SampleRequest) -> int:
        """Atoms of a molecule with its padding."""
        step = PAD_STEP.get(self.device.type, 1)
        return -(-max(request.graph.n_atoms, 1) // step) * step

    def _shrink(self, batch: list[SampleRequest]) -> None:
        """Halve the budget after an out-of-memory error, and run one batch at a time, for the rest
        of this pipeline's life."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._alone = True
        drawn = max(len(batch), self._fewest)
        self.batch_pairs = max(1, self._padded(batch[0]) ** 2 * (drawn // 2))
        if drawn <= self._fewest:
            self._fewest = 1
        logger.warning("out of memory with %d samples; going on with fewer at a time", drawn)

    def _run(self, requests: list[SampleRequest], guided: bool, limit: Limit) -> list[Result]:
        process = self._model.process
        results = self._draw(requests, process, guided, limit)
        broken = [k for k, found in enumerate(results) if found is FailureCause.NONFINITE]
        cautious = process.cautious(self._name) if broken else None
        if cautious is not None:
            logger.info("%d samples not finite; trying once more with care", len(broken))
            again = self._draw([requests[k] for k in broken], cautious, guided, limit)
            for k, found in zip(broken, again, strict=True):
                results[k] = found
        return results

    def _draw(
        self,
        requests: list[SampleRequest],
        process: Process,
        guided: bool,
        limit: Limit,
    ) -> list[Result]:
        wanted = len(requests)
        requests = requests + requests[:1] * (self._fewest - wanted)
        pad = self._padded(requests[0])
        graphs = MolBatch.collate([r.graph for r in requests], pad_atoms=pad).to(self.device)
        streams = [stream_of(r) for r in requests]
        shape = (*graphs.mask.shape, 3)

        def noise(step: int) -> torch.Tensor:
            drawn = np.zeros(shape, np.float32)
            for row, (request, stream) in enumerate(zip(requests, streams, strict=True)):
                n = request.graph.n_atoms
                drawn[row, :n] = stream.standard_normal((n, 3), dtype=np.float32)
            if step >= 0:  # what a sampler adds, not what it starts from
                drawn *= self._noise_scale
            return center(torch.from_numpy(drawn).to(self.device), graphs.mask)

        def watch(step: int, sigma: float, x: torch.Tensor, denoised: torch.Tensor) -> None:
            limit.check()

        limit.check()
        with torch.inference_mode():
            model = dataclasses.replace(self._model, process=process)
            denoiser = model.bind(graphs, self._name, self._bf16, self._guidance)
            sigmas = self._levels(pad)
            denoiser = stretch(denoiser, self._stretch, sigmas)
            if guided:
                denoiser = guide_stereo(denoiser, graphs)
            held = _pad_held(requests, shape)
            denoiser = hold_positions(denoiser, graphs, *(t.to(self.device) for t in held))
            x = _pad_starts(requests, shape).to(self.device)
            x = center(x, graphs.mask) + sigmas[0] * noise(-1)
            x = self._sampler(denoiser, x, sigmas, noise=noise, callback=watch)
        positions = x.cpu().double().numpy()
        finite = np.isfinite(positions).all((1, 2))
        return [
            positions[k, : r.graph.n_atoms] if finite[k] else FailureCause.NONFINITE
            for k, r in enumerate(requests[:wanted])
        ]


def _pad_held(
    requests: list[SampleRequest], shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, N) bool and (B, N, 3) places in Å of the held atoms of a batch."""
    held, places = np.zeros(shape[:2], bool), np.zeros(shape, np.float32)
    for row, request in enumerate(requests):
        if request.held is not None:
            held[row, request.held.atoms] = True
            # Single precision is wasted on places far from the origin.
            near = request.held.positions - request.held.positions.mean(0)
            places[row, request.held.atoms] = near
    return torch.from_numpy(held), torch.from_numpy(places)


def _pad_starts(requests: list[SampleRequest], shape: tuple[int, ...]) -> torch.Tensor:
    """(B, N, 3) positions in Å to add noise to; zeros where there is no start."""
    starts = np.zeros(shape, np.float32)
    for row, request in enumerate(requests):
        if request.start is not None:
            starts[row, : len(request.start)] = request.start - request.start.mean(0)
    return torch.from_numpy(starts)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text
