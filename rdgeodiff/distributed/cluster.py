"""Ray itself: whether it is there, what the cluster has, and how many workers that makes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rdgeodiff.parameters import DiffusionEmbedParameters

INSTRUCTION = "working on many machines needs Ray: pip install 'rdgeodiff[ray]'"


@dataclass(frozen=True)
class Workers:
    """How many actors, and what each has.

    Attributes:
        count: actors.
        gpus: of each; 0 or 1.
    """

    count: int
    gpus: int

    @property
    def device(self) -> str:
        """What the network runs on. Ray shows an actor its own GPU only."""
        return "cuda" if self.gpus else "cpu"

    def options(self) -> dict[str, Any]:
        """Keywords of `Dataset.map_batches`."""
        # With one task at a time none waits for a worker while another has nothing to do.
        compute = ray().data.ActorPoolStrategy(size=self.count, max_tasks_in_flight_per_actor=1)
        resources: dict[str, Any] = {"num_gpus": 1} if self.gpus else {"num_cpus": 1}
        return {**resources, "compute": compute}


def ray() -> Any:
    """The package, with Ray Data.

    Raises:
        ImportError: not installed; says how.
    """
    try:
        import ray as package
        import ray.data
    except ImportError as error:
        raise ImportError(f"{INSTRUCTION} ({error})") from None
    return package


def hold_threads(settings: DiffusionEmbedParameters) -> None:
    """Hold torch to the threads of the call: an actor has a core, not the machine."""
    torch.set_num_threads(max(1, settings.numThreads))


@contextmanager
def connected() -> Iterator[Any]:
    """Ray, connected to the cluster that is there already (a job's own, or RAY_ADDRESS).

    Without one a local Ray starts, sends no usage statistics, and stops at the end.
    """
    package = ray()
    if package.is_initialized():
        yield package
        return
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    package.init(include_dashboard=False, log_to_driver=False)
    try:
        yield package
    finally:
        package.shutdown()


def workers_of(package: Any, wanted: int, device: str, spare: int = 0) -> Workers:
    """Actors for a cluster.

    Args:
        package: Ray, connected.
        wanted: actors; 0 for one per GPU, or per core where there is none.
        device: "auto" for GPUs where there are any; "cpu" or "cuda".
        spare: cores that are left to other steps of a pipeline, which would wait for ever.

    Raises:
        ValueError: another device, or more actors than the cluster can hold.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r}: Ray hands out GPUs; say 'auto', 'cpu' or 'cuda'")
    there = package.cluster_resources()
    gpus, cores = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    on_gpu = device == "cuda" or (device == "auto" and gpus > 0)
    most, what = (gpus, "GPUs") if on_gpu else (cores - spare, "cores to give")
    if wanted < 0 or wanted > most or most < 1:
        raise ValueError(f"{wanted or 'any'} workers: the cluster has {most} {what}")
    return Workers(wanted or most, int(on_gpu))
