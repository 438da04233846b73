"""A screen on many workers: the shards of `screen_library`, made by actors, one account of all.

A unit is a range of rows. An actor reads the rows of its unit, embeds them shard by shard and puts
the shards in their place; only accounts of them travel. A shard depends on its rows alone, so the
folder is the one that a single process would have left, and either can go on with the other's.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rdgeodiff.distributed.cluster import Workers, connected, hold_threads, ray, workers_of
from rdgeodiff.distributed.library import Library, count_records, files_of
from rdgeodiff.distributed.waiting import Waiting
from rdgeodiff.embed import settings_of
from rdgeodiff.parameters import DiffusionEmbedParameters
from rdgeodiff.rows import RowEmbedder
from rdgeodiff.screen.beginning import check_call, header_of, locked, with_seed_of
from rdgeodiff.screen.manifest import Manifest
from rdgeodiff.screen.reading import prepared_shards
from rdgeodiff.screen.run import DEFAULT_SHARD, ScreenReport, stopped
from rdgeodiff.screen.shards import remove_unfinished, write_shard

_log = logging.getLogger(__name__)

# Shards a unit at most: fewer make the end ragged, more would read the start of a file more often.
_UNIT = 8
# Units at most, whatever their size: Ray keeps an account of each.
_UNITS = 20_000
# A worker that dies takes its unit along, which is begun anew; so many workers it may cost.
_TRIES = 4
# Units a worker gets in all, at least, so that quick ones help slow ones.
_UNITS_A_WORKER = 4


def screen_on_ray(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    count: int,
    *,
    workers: int = 0,
    shard: int = DEFAULT_SHARD,
    rows: tuple[int, int | None] = (0, None),
    kind: str = "parquet",
    add_hs: bool = True,
    progress: bool = True,
    **options: Any,
) -> ScreenReport:
    """Embed a library with the workers of a Ray cluster.

    Args:
        source: a file `read_molecules` reads, or a folder of such files, which count as one library
            in the order of their names. All nodes must see it under this path.
        folder: gets shards and `manifest.jsonl`; all nodes must see it. One that was begun is
            continued, whoever began it.
        count: conformers a molecule.
        workers: actors; 0 for one per GPU of the cluster, or per core where it has none.
        shard, rows, kind, add_hs, progress: as in `screen_library`.
        options: attributes of `DiffusionEmbedParameters`; `device` is "auto", "cpu" or "cuda".

    Returns:
        The account. A worker that dies is replaced and its unit begun anew; rows are not lost.

    Raises:
        ScreenStoppedError: input could not be read, output not be written, or a unit took four
            workers with it; finished shards are intact and the same call goes on.
        ImportError: Ray is not installed.
        ManifestError, ReaderError, CheckpointError, ValueError: as from `screen_library`.
    """
    ray()
    check_call(kind, rows, shard)
    files = tuple(path.resolve() for path in files_of(source))
    folder = Path(folder).resolve()
    with locked(folder), connected() as package:
        remove_unfinished(folder)
        for path in folder.glob(_tries_of("*")):
            path.unlink()
        manifest = Manifest(folder)
        settings = with_seed_of(manifest, settings_of(None, options))
        pool = workers_of(package, workers, settings.device)
        # This process draws nothing: it needs the seed, the checks and the sum of the weights.
        with RowEmbedder(count, settings.updated(device="cpu")) as embedder:
            settings = embedder.settings.updated(device=pool.device)
            library = Library(files, tuple(count_records(path) for path in files))
            manifest.begin(
                header_of(
                    embedder,
                    library.identity(),
                    rows=rows,
                    shard=shard,
                    kind=kind,
                    add_hs=add_hs,
                    device=pool.device,
                )
            )
        end = library.size if rows[1] is None else min(rows[1], library.size)
        job = {"library": library, "folder": folder, "count": count, "settings": settings}
        job |= {"shard": shard, "kind": kind, "add_hs": add_hs, "tries": _TRIES}
        return _run(package, manifest, folder, job, pool, max(end, rows[0]), progress)


def _run(
    package: Any,
    manifest: Manifest,
    folder: Path,
    job: dict[str, Any],
    pool: Workers,
    end: int,
    progress: bool,
) -> ScreenReport:
    totals = manifest.totals
    waiting = Waiting(folder, manifest)
    report = ScreenReport(totals, totals.molecules + waiting.molecules)
    everything = totals.molecules + end - manifest.next_row
    first, index, size = manifest.next_row, totals.shards, job["shard"]
    missing = [
        k for k in range(index, index + math.ceil((end - first) / size)) if k not in waiting.shards
    ]
    units = [
        {
            "index": part[0],
            "first": first + (part[0] - index) * size,
            "stop": min(first + (part[-1] + 1 - index) * size, end),
        }
        for part in _parts(missing, pool.count)
    ]
    if not units:
        return report
    accounts = _accounts(package, units, job, pool)
    bar = tqdm(total=everything, initial=report.resumed, unit="mol", disable=not progress)
    with bar:
        try:
            for line in accounts:
                bar.update(line["molecules"])
                waiting.add(line)
                bar.set_postfix(missing=sum(totals.failures.values()), refresh=False)
        except KeyboardInterrupt:
            report.interrupted = True
        except (OSError, package.exceptions.RayError) as error:
            raise stopped(_cause(error), totals, folder) from error
    if not report.interrupted and manifest.next_row < end:
        raise stopped(RuntimeError(f"row {manifest.next_row} was not made"), totals, folder)
    return report


def _parts(missing: list[int], workers: int) -> list[list[int]]:
    """Numbers of shards that are still to be made, in runs without a gap, each of one unit."""
    most = min(_UNIT, len(missing) // (_UNITS_A_WORKER * workers))
    most = max(1, most, math.ceil(len(missing) / _UNITS))
    parts: list[list[int]] = []
    for shard in missing:
        if parts and len(parts[-1]) < most and parts[-1][-1] == shard - 1:
            parts[-1].append(shard)
        else:
            parts.append([shard])
    return parts


def _accounts(
    package: Any, units: list[dict[str, int]], job: dict[str, Any], pool: Workers
) -> Iterator[dict[str, Any]]:
    """The manifest's line of each shard, as they are finished."""
    data = package.data.from_items(units, override_num_blocks=len(units))
    # An account is sent when its shard is finished, not when there are many.
    data.context.target_max_block_size = 1
    data.context.enable_progress_bars = False
    done = data.map_batches(
        ShardActor, batch_size=1, fn_constructor_kwargs={"job": job}, **pool.options()
    )
    for row in done.iter_rows():
        yield json.loads(row["account"])


class ShardActor:
    """Makes the shards of units; what Ray holds once per GPU or core.

    Args:
        job: library, folder, count, settings, shard, kind and add_hs of the screen.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        settings: DiffusionEmbedParameters = job["settings"]
        hold_threads(settings)
        self._job = job
        self._embedder = RowEmbedder(job["count"], settings)
        self._reading = ThreadPoolExecutor(1, "rdgeodiff-reader")
        self._properties = {
            "rdgeodiff_model": settings.model,
            "rdgeodiff_seed": str(settings.randomSeed),
        }

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        """Accounts (JSON) of the shards of the units in `batch`, one at a time."""
        job = self._job
        for index, first, stop in zip(batch["index"], batch["first"], batch["stop"], strict=True):
            tries = self._begin(int(index), int(first), int(stop))
            records = job["library"].read(int(first), int(stop), job["add_hs"])
            shards = prepared_shards(records, self._embedder, job["shard"], int(index), int(first))
            # The next shard is read and featurised while the network draws this one.
            coming = self._reading.submit(next, shards, None)
            while (one := coming.result()) is not None:
                coming = self._reading.submit(next, shards, None)
                started = time.monotonic()
                self._embedder.embed(one.rows)
                one.seconds = time.monotonic() - started
                line = write_shard(job["folder"], one, job["kind"], self._properties)
                yield {"account": [json.dumps(line)]}
            tries.unlink(missing_ok=True)

    def _begin(self, index: int, first: int, stop: int) -> Path:
        """Count a try to make this unit, in a file that outlives the worker."""
        path = self._job["folder"] / _tries_of(f"{index:06d}")
        tries = path.stat().st_size if path.exists() else 0
        if tries >= self._job["tries"]:
            raise OSError(f"rows {first} to {stop - 1}: workers that died of them: {tries}")
        with open(path, "ab") as stream:
            stream.write(b".")
        return path


def _tries_of(unit: str) -> str:
    return f".unit-{unit}.tries"


def _cause(error: BaseException) -> OSError:
    """What went wrong in the worker, without Ray's account of how it came here."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    lines = str(error).splitlines() or [type(error).__name__]
    return OSError(lines[0])
