"""Columns of a frame as lists and back, without a guess at what they hold."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from rdkit import Chem

try:
    import pandas as pd
except ImportError:
    raise ImportError("frames need pandas: pip install 'rdgeodiff[pandas]'") from None


def cells_of(frame: pd.DataFrame, title: Hashable) -> list[Any]:
    """The values of a column, by position.

    Raises:
        KeyError: no such column.
        ValueError: several of them.
    """
    if title not in frame.columns:
        known = ", ".join(map(repr, frame.columns))
        raise KeyError(f"the frame has no column {title!r}; there are: {known}")
    column = frame[title]
    if not isinstance(column, pd.Series):
        raise ValueError(f"the frame has several columns {title!r}")
    return column.tolist()


def objects(values: Sequence[Any], index: pd.Index) -> pd.Series:
    """A column of Python objects as they are: without the dtype, pandas turns None into NaN."""
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = value
    return pd.Series(column, index=index, dtype=object)


def missing(cell: Any) -> bool:
    """None, NaN, pd.NA or pd.NaT."""
    if isinstance(cell, Chem.Mol | str):
        return False
    return cell is None or bool(pd.api.types.is_scalar(cell) and pd.isna(cell))
