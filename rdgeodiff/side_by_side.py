"""Batches beside each other on the cores of a processor.

Most operations on one batch are too short to be shared by threads: two threads of torch make a
batch of skeletons hardly faster than one. Two batches at once, each with a share of the threads,
take little longer than one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import torch

T = TypeVar("T")

# Padded pairs of a batch below which the interpreter, which one thread at a time may use, is what
# takes the time.
WORTH_A_THREAD = 3_000
# A tenth of a batch's time is the interpreter's; memory is taken for each.
MOST = 8


def cores_for(device: torch.device) -> int:
    """How many batches may run at once: on a processor as many as torch has threads, up to `MOST`,
    which share what there are more; else one."""
    return min(torch.get_num_threads(), MOST) if device.type == "cpu" else 1


def evenly(count: int, fewest: int, most: int, cost: int, cores: int) -> list[int]:
    """Sizes of the batches that `count` samples of `cost` padded pairs each are drawn in.

    Args:
        count: samples.
        fewest, most: that one batch should and may hold.
        cost: of a sample.
        cores: for which there should be a batch each, while batches are `WORTH_A_THREAD`.
    """
    batches = -(-count // most)
    wanted = -(-batches // cores) * cores
    if cores > 1 and count * cost >= wanted * WORTH_A_THREAD:
        batches = max(batches, min(wanted, count // fewest))
    return [count // batches + (k < count % batches) for k in range(batches)]


@contextmanager
def side_by_side(
    jobs: Sequence[Callable[[], T]], cores: int, stop: Event
) -> Iterator[list[Callable[[], T]]]:
    """What gives the results of `jobs`, in their order, while they run.

    Args:
        jobs: one batch each. Those that wait are dropped when the block is left, by an error or an
            interrupt, say; it is left when those that run have ended.
        cores: how many run at once; with one, each runs when its result is asked for.
        stop: set when the block is left, for jobs that can end early.
    """
    running = min(cores, len(jobs))
    if running < 2:
        yield list(jobs)
        return
    before = torch.get_num_threads()

    def with_its_share(job: Callable[[], T]) -> T:
        # Of this thread alone, but for threads that are yet to use torch: put right below.
        torch.set_num_threads(max(1, before // running))
        return job()

    pool = ThreadPoolExecutor(running, thread_name_prefix="rdgeodiff")
    try:
        yield [pool.submit(with_its_share, job).result for job in jobs]
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
