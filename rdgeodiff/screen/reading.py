"""Records in, featurised shards out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from rdgeodiff.chem.formats import Record
from rdgeodiff.rows import PreparedRow, RowEmbedder
from rdgeodiff.screen.shards import Shard


def undamaged(records: Iterable[Record], source: str | os.PathLike[str]) -> Iterator[Record]:
    """The records, as long as the file can be read.

    Raises:
        OSError: it cannot be read on; a damaged file is no shorter library.
    """
    for record in records:
        if record.damaged:
            raise OSError(f"{os.fspath(source)}, record {record.row}: {record.error}")
        yield record


def prepared_shards(
    records: Iterable[Record], embedder: RowEmbedder, size: int, index: int, first: int
) -> Iterator[Shard]:
    """Consecutive records as shards.

    Args:
        records: from row `first` on.
        embedder: prepares them.
        size: records a shard; the last may have fewer.
        index: number of the first shard.
        first: its first row.
    """
    rows: list[PreparedRow] = []
    for record in records:
        rows.append(embedder.prepare(record))
        if len(rows) == size:
            yield Shard(index, first, first + len(rows), rows)
            index, first, rows = index + 1, first + len(rows), []
    if rows:
        yield Shard(index, first, first + len(rows), rows)
