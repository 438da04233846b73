"""How closely our numbers agree with those of the original code: the largest error by fixture.

    python benchmarks/parity.py [--out FILE]

Runs the tests that compare with tests/fixtures/geodiff_official (numbers computed by the original
code; see the README there) and notes the error of every array they look at, whether it passes or
not. An error is relative to the largest entry of its array.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TESTS = Path(__file__).resolve().parent.parent / "tests"
# Test → what it compares. Where a test runs over files, the file is named too.
COMPARED = {
    "test_forward": "network, every layer and both branches",
    "test_loss": "loss and gradients",
    "test_five_training_steps": "five training steps",
    "test_sampler": "ten steps of the original's sampler",
    "test_langevin_through_a_denoiser_is_the_same": "the same through `langevin`",
    "test_converted_model_gives_the_public_outputs": "converted checkpoint, outputs",
    "test_reads_configuration_and_tensors": "converted checkpoint, tables",
    "test_complete_float32_tables": "tables of noise levels, float32",
    "test_float32_tables": "tables of noise levels, float32",
    "test_tables_of_the_original_code": "tables of noise levels, float64",
}
LOOSEST = 1e-4  # comparisons that allow more are not of like with like
# Where tests get their comparisons from.
PLACES = ((torch.testing, "assert_close"), (np.testing, "assert_allclose"))


@dataclass
class Row:
    """Errors of one fixture: arrays compared, the largest relative and absolute one."""

    arrays: int = 0
    relative: float = 0.0
    absolute: float = 0.0


class Recorder:
    """A pytest plugin that notes what comparing functions are given."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the tests of COMPARED."""
        items[:] = [item for item in items if item.originalname in COMPARED]  # type: ignore[attr-defined]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Any:
        """Listen while a test runs."""
        parameters = getattr(item, "callspec", None)
        values = parameters.params if parameters else {}
        fixture = str(values.get("name", values.get("variant", "")))
        row = self.rows.setdefault((COMPARED[item.originalname], fixture), Row())
        places = [(owner, name) for owner, name in PLACES if hasattr(owner, name)]
        if hasattr(item.module, "assert_close"):
            places.append((item.module, "assert_close"))
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in places:
                patch.setattr(owner, name, _listening(getattr(owner, name), row))
            return (yield)


def main() -> int:
    """Run the comparisons and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the table as Markdown")
    args = parser.parse_args()
    recorder = Recorder()
    files = ("test_dual_encoder.py", "test_original_checkpoint.py", "test_schedule.py")
    status = pytest.main(
        ["-q", "-p", "no:cacheprovider", *(str(TESTS / f) for f in files)], plugins=[recorder]
    )
    text = table(recorder.rows)
    print(text)
    if args.out:
        args.out.write_text(text)
    return int(status)


def table(rows: dict[tuple[str, str], Row]) -> str:
    """Markdown: a line a fixture, and all together."""
    found = {key: row for key, row in rows.items() if row.arrays}
    lines = [
        "| compared | fixture | arrays | max error / largest entry | max absolute error |",
        "|---|---|---|---|---|",
    ]
    for (what, fixture), r in found.items():
        lines.append(f"| {what} | {fixture} | {r.arrays} | {r.relative:.1e} | {r.absolute:.1e} |")
    arrays = sum(r.arrays for r in found.values())
    worst = max((r.relative for r in found.values()), default=0.0)
    largest = max((r.absolute for r in found.values()), default=0.0)
    lines.append(f"| **all** | | {arrays} | **{worst:.1e}** | {largest:.1e} |")
    return "\n".join(lines) + "\n"


def _listening(compare: Any, row: Row) -> Any:
    """`compare` that notes the error in `row` before it judges."""

    def listening(ours: Any, expected: Any, *args: Any, **kwargs: Any) -> None:
        tolerance = kwargs.get("rtol", args[0] if args else 0.0) or 0.0
        a, b = _array(ours), _array(expected)
        if b.dtype.kind == "f" and b.size and a.shape == b.shape and tolerance <= LOOSEST:
            error = float(np.abs(a.astype(float) - b.astype(float)).max())
            scale = float(np.abs(b).max())
            row.arrays += 1
            row.absolute = max(row.absolute, error)
            row.relative = max(row.relative, error / scale if scale else error)
        compare(ours, expected, *args, **kwargs)

    return listening


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


if __name__ == "__main__":
    sys.exit(main())
