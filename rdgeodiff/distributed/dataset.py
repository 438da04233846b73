"""A step of a pipeline of Ray Data: a column of molecules in, columns of conformers added."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rdgeodiff.chem.formats import Record
from rdgeodiff.chem.parquet import MARK, mol_of_cell, mol_to_bytes, pyarrow
from rdgeodiff.chem.readers import with_hydrogens
from rdgeodiff.chem.writers import labelled
from rdgeodiff.distributed.cluster import hold_threads, ray, workers_of
from rdgeodiff.embed import settings_of
from rdgeodiff.parameters import DiffusionEmbedParameters
from rdgeodiff.rows import PreparedRow, RowEmbedder

MOLECULES = "ROMol"
COLUMNS = (MOLECULES, "requested", "delivered", "failures", "error")


def embed_dataset(
    dataset: Any,
    count: int,
    *,
    column: str = "smiles",
    row_column: str = "row",
    workers: int = 0,
    batch: int = 256,
    add_hs: bool = True,
    **options: Any,
) -> Any:
    """A dataset with conformers: every row stays, those that fail with the cause.

    Lazy, as Ray Data is: work begins when the result is written or iterated.

    Args:
        dataset: of Ray Data, with a column of SMILES or of molecules in binary form
            (`mol_to_bytes`) and one of row numbers.
        count: conformers a molecule.
        column: of the molecules.
        row_column: whole numbers ≥ 0, one per molecule. They are the keys of the random streams,
            so that a molecule gets the same conformers however Ray cuts the dataset.
        workers: actors; 0 for one per GPU of the cluster, or per core where it has none. One core
            is left for reading and writing.
        batch: molecules that share the batches of the network.
        add_hs: add the hydrogens that are missing.
        options: attributes of `DiffusionEmbedParameters`; `device` is "auto", "cpu" or "cuda".

    Returns:
        The dataset with the columns of `COLUMNS` added: the molecule with its conformers in binary
        form, conformers requested and delivered, failures (JSON, cause → count), error. A table
        written from it is read by `read_molecules` and `FrameFromParquet`.

    Raises:
        ImportError: Ray is not installed.
        CheckpointError, ValueError: no such model or column, or a parameter that makes no sense.
    """
    package = ray()
    # None where Ray would have to begin with the work to know.
    names = dataset.columns(fetch_if_missing=False)
    for name in (column, row_column):
        if names is not None and name not in names:
            raise ValueError(f"no column {name!r} in the dataset; there are: {', '.join(names)}")
    settings = settings_of(None, options)
    pool = workers_of(package, workers, settings.device, spare=1)
    # Fixes a seed that was left open for all actors, and finds mistakes before they start.
    with RowEmbedder(count, settings.updated(device="cpu")) as embedder:
        settings = embedder.settings.updated(device=pool.device)
    how = {"count": count, "settings": settings, "add_hs": add_hs}
    how |= {"column": column, "row_column": row_column}
    return dataset.map_batches(
        RowsActor,
        batch_size=batch,
        batch_format="pyarrow",
        fn_constructor_kwargs=how,
        **pool.options(),
    )


class RowsActor:
    """Adds conformers to batches of a dataset; what Ray holds once per GPU or core."""

    def __init__(
        self,
        count: int,
        settings: DiffusionEmbedParameters,
        column: str,
        row_column: str,
        add_hs: bool,
    ) -> None:
        hold_threads(settings)
        self._embedder = RowEmbedder(count, settings)
        self._column, self._row_column, self._add_hs = column, row_column, add_hs

    def __call__(self, table: Any) -> Any:
        """The pyarrow table with the columns of `COLUMNS`."""
        cells = table.column(self._column).to_pylist()
        numbers = table.column(self._row_column).to_pylist()
        rows = [self._embedder.prepare(record) for record in _records(cells, numbers, self._add_hs)]
        self._embedder.embed(rows)
        return _with_conformers(table, rows)


def _records(cells: list[Any], numbers: list[Any], add_hs: bool) -> Iterator[Record]:
    seen = set()
    for cell, number in zip(cells, numbers, strict=True):
        if not isinstance(number, int) or number < 0 or number in seen:
            raise ValueError(f"row number {number!r}: must be whole, ≥ 0 and not twice there")
        seen.add(number)
        mol, error = mol_of_cell(cell)
        text = cell if isinstance(cell, str) else ""
        record = Record(number, f"mol{number + 1}", text, mol, error)
        yield with_hydrogens(record) if add_hs else record


def _with_conformers(table: Any, rows: list[PreparedRow]) -> Any:
    arrow = pyarrow()
    results = [row.result for row in rows]
    molecules = [
        None if row.record.mol is None else mol_to_bytes(labelled(row.record, {})) for row in rows
    ]
    causes = [json.dumps({str(k): n for k, n in r.failures.items() if n}) for r in results]
    added = (
        (arrow.field(MOLECULES, arrow.binary(), metadata=MARK), molecules),
        (arrow.field("requested", arrow.int64()), [r.requested for r in results]),
        (arrow.field("delivered", arrow.int64()), [len(r.conf_ids) for r in results]),
        (arrow.field("failures", arrow.string()), causes),
        (arrow.field("error", arrow.string()), [r.error for r in results]),
    )
    for field, values in added:
        if field.name in table.column_names:
            table = table.drop_columns([field.name])
        table = table.append_column(field, arrow.array(values, field.type))
    return table
