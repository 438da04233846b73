"""A library of any size in, shards of conformers out; stopped anywhere, the same call goes on.

Reading and featurising, the network, and writing each have a thread, with a few shards between
them: memory does not grow with the library. A shard is also what the network sees as one stream of
batches, so its content depends on its rows alone, not on when or after what it is made.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rdgeodiff.chem.readers import count_molecules, read_molecules
from rdgeodiff.embed import settings_of
from rdgeodiff.rows import RowEmbedder
from rdgeodiff.screen.beginning import check_call, header_of, identity_of, locked, with_seed_of
from rdgeodiff.screen.manifest import Manifest, Totals
from rdgeodiff.screen.reading import prepared_shards, undamaged
from rdgeodiff.screen.shards import Shard, remove_unfinished, write_shard

DEFAULT_SHARD = 256
# Shards prepared ahead of the network, and finished ones that wait for the disk.
AHEAD, BEHIND = 1, 1
_COUNTED_BYTES = 256 << 20  # a larger file is not read once more for the sake of a progress bar


class ScreenStoppedError(OSError):
    """The screen could not go on; finished shards are intact and the same call goes on."""


def stopped(problem: BaseException, totals: Totals, folder: Path) -> ScreenStoppedError:
    """The error that tells how far it came."""
    return ScreenStoppedError(
        f"stopped: {problem}. {totals.shards} shards with {totals.molecules} molecules in "
        f"{folder} are finished and intact; the same call goes on from there"
    )


@dataclass
class ScreenReport:
    """What a call left behind.

    Attributes:
        totals: of all finished shards, those of earlier calls included.
        resumed: molecules that were finished when the call began.
        interrupted: stopped with Ctrl-C.
    """

    totals: Totals
    resumed: int = 0
    interrupted: bool = False


def screen_library(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    count: int,
    *,
    shard: int = DEFAULT_SHARD,
    rows: tuple[int, int | None] = (0, None),
    kind: str = "sdf.gz",
    add_hs: bool = True,
    progress: bool = True,
    **options: Any,
) -> ScreenReport:
    """Embed a library shard by shard.

    Args:
        source: a file `read_molecules` reads record by record.
        folder: gets shards and `manifest.jsonl`; made if it is not there. A folder that was begun
            with the same arguments is continued.
        count: conformers a molecule.
        shard: molecules a shard; also what is lost at most when the process dies.
        rows: first row and the one after the last (None: to the end); slices of a library for
            several machines, each with a folder of its own.
        kind: "sdf.gz", or "parquet" with a row per molecule.
        add_hs: add the hydrogens that are missing.
        progress: show a bar that counts molecules.
        options: attributes of `DiffusionEmbedParameters`.

    Returns:
        The account; an interrupt is told there, all that was finished by then is in place.

    Raises:
        ScreenStoppedError: the input could not be read on, or the output not be written.
        ManifestError: the folder belongs to another screen, or another process works in it.
        ReaderError, CheckpointError, ValueError: the call itself is wrong.
    """
    check_call(kind, rows, shard)
    identity = identity_of(Path(source))
    folder = Path(folder)
    with locked(folder):
        remove_unfinished(folder)
        manifest = Manifest(folder)
        settings = settings_of(None, options)
        settings = with_seed_of(manifest, settings)
        with RowEmbedder(count, settings) as embedder:
            manifest.begin(
                header_of(embedder, identity, rows=rows, shard=shard, kind=kind, add_hs=add_hs)
            )
            work = _Work(Path(source), folder, manifest, embedder, kind, add_hs, shard, rows[1])
            return work.run(progress)


class _Work:
    """The three threads of a screen."""

    def __init__(
        self,
        source: Path,
        folder: Path,
        manifest: Manifest,
        embedder: RowEmbedder,
        kind: str,
        add_hs: bool,
        shard: int,
        stop: int | None,
    ) -> None:
        self._source, self._folder, self._manifest = source, folder, manifest
        self._embedder, self._kind, self._add_hs = embedder, kind, add_hs
        self._size, self._stop = shard, stop
        self._properties = {
            "rdgeodiff_model": embedder.settings.model,
            "rdgeodiff_seed": str(embedder.settings.randomSeed),
        }

    def run(self, progress: bool) -> ScreenReport:
        totals = self._manifest.totals
        report = ScreenReport(totals, totals.molecules)
        reading = ThreadPoolExecutor(1, "rdgeodiff-reader")
        writing = ThreadPoolExecutor(1, "rdgeodiff-writer")
        going: deque[Future[None]] = deque()
        problem: OSError | None = None
        bar = tqdm(
            total=self._count() if progress else None,
            initial=report.resumed,
            unit="mol",
            disable=not progress,
        )
        with bar:
            try:
                shards = self._shards()
                coming = deque(reading.submit(next, shards, None) for _ in range(AHEAD + 1))
                while (one := coming.popleft().result()) is not None:
                    coming.append(reading.submit(next, shards, None))
                    self._embed(one, bar)
                    going.append(writing.submit(self._commit, one))
                    while len(going) > BEHIND or (going and going[0].done()):
                        going.popleft().result()
            except KeyboardInterrupt:
                report.interrupted = True
            except OSError as error:
                problem = error
            finally:
                reading.shutdown(wait=True, cancel_futures=True)
                # Shards that are drawn are not thrown away.
                writing.shutdown(wait=True)
        for future in going:
            failed = future.exception()
            if isinstance(failed, OSError):
                problem = problem or failed
            elif failed is not None and problem is None:
                raise failed
        if problem is not None:
            raise stopped(problem, totals, self._folder) from problem
        return report

    def _shards(self) -> Iterator[Shard]:
        """Shards that are still to be made, featurised."""
        index, first = self._manifest.totals.shards, self._manifest.next_row
        records = undamaged(read_molecules(self._source, self._add_hs, first=first), self._source)
        if self._stop is not None:
            stop = self._stop
            records = takewhile(lambda record: record.row < stop, records)
        return prepared_shards(records, self._embedder, self._size, index, first)

    def _embed(self, shard: Shard, bar: Any) -> None:
        started = time.monotonic()
        settled: set[int] = set()

        def on_settled(row: int) -> None:
            if row not in settled:
                settled.add(row)
                bar.update()

        self._embedder.embed(shard.rows, on_settled)
        shard.seconds = time.monotonic() - started
        bar.update(len(shard.rows) - len(settled))
        made = sum(len(row.result.conf_ids) for row in shard.rows)
        bar.set_postfix(
            {
                "conf/s": f"{made / max(shard.seconds, 1e-9):.3g}",
                "missing": sum(self._manifest.totals.failures.values()),
            },
            refresh=False,
        )

    def _commit(self, shard: Shard) -> None:
        # After a failure none may pass the one that failed.
        if shard.index != self._manifest.totals.shards:
            raise OSError(f"shard {self._manifest.totals.shards} could not be written")
        line = write_shard(self._folder, shard, self._kind, self._properties)
        self._manifest.append(line)

    def _count(self) -> int | None:
        if self._source.stat().st_size > _COUNTED_BYTES:
            return None
        count = count_molecules(self._source)
        if count is None:
            return None
        assert self._manifest.header is not None
        start = self._manifest.header["rows"][0]
        return max(0, min(count, self._stop or count) - start)
