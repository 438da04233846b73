"""Noise levels: the published process, and the grids samplers walk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rdgeodiff.diffusion.schedule import Schedule, karras_sigmas

TABLES = json.loads(
    (Path(__file__).parent / "fixtures" / "geodiff_official" / "schedules.json").read_text()
)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_tables_of_the_original_code(name):
    table = TABLES[name]
    schedule = Schedule(table["T"], table["beta_start"], table["beta_end"])
    index = table["index"]
    for array, key in (
        (schedule.betas, "beta"),
        (schedule.alpha_bars, "alpha_bar"),
        (schedule.sigmas, "sigma"),
    ):
        assert array.shape == (table["T"],)
        np.testing.assert_allclose(array[index], table[f"{key}_float64"], rtol=1e-9)
        # The original's float32 loses 0.2 % of the first level to cancellation.
        np.testing.assert_allclose(array[index], table[f"{key}_float32"], rtol=2.2e-3)


def test_ends_of_the_default_process():
    schedule = Schedule()
    assert schedule.sigmas[0] == pytest.approx(0.00225, abs=5e-6)
    assert schedule.sigmas[-1] == pytest.approx(12.17, abs=5e-3)
    assert schedule.alpha_bars[-1] == pytest.approx(6.71e-3, abs=5e-6)
    assert (np.diff(schedule.sigmas) > 0).all()
    assert (np.diff(schedule.betas) > 0).all()


def test_subset_keeps_both_ends_and_ends_in_zero():
    schedule = Schedule()
    assert np.array_equal(schedule.subset(), np.append(schedule.sigmas[::-1], 0.0))
    for count in (2, 7, 25, 4999):
        levels = schedule.subset(count)
        assert len(levels) == count + 1
        assert levels[0] == schedule.sigmas[-1]
        assert levels[-2] == schedule.sigmas[0]
        assert levels[-1] == 0.0
        assert (np.diff(levels) < 0).all()
        assert np.isin(levels[:-1], schedule.sigmas).all()
    assert np.array_equal(schedule.subset(1), [schedule.sigmas[-1], 0.0])


@pytest.mark.parametrize("count", [0, -1, 5001])
def test_subset_refuses_impossible_counts(count):
    with pytest.raises(ValueError, match=str(count)):
        Schedule().subset(count)


def test_karras_grid():
    levels = karras_sigmas(5, 0.01, 10.0, rho=7.0)
    assert len(levels) == 6
    assert levels[0] == pytest.approx(10.0)
    assert levels[-2] == pytest.approx(0.01)
    assert levels[-1] == 0.0
    # By definition the rho-th roots are evenly spaced.
    roots = levels[:-1] ** (1 / 7.0)
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-9)
    np.testing.assert_allclose(karras_sigmas(1, 0.01, 10.0), [10.0, 0.0], rtol=1e-12)


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0.01, 10), (5, 0.0, 10), (5, 2.0, 1.0)])
def test_karras_grid_refuses_nonsense(count, low, high):
    with pytest.raises(ValueError, match="Karras"):
        karras_sigmas(count, low, high)
