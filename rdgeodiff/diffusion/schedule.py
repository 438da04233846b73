"""The forward process of GeoDiff and its noise levels.

The paper diffuses centre-of-mass-free coordinates, q(Cᵗ|C⁰) = N(√ᾱₜ C⁰, (1 − ᾱₜ) I), with a
sigmoid ramp of β over T steps. Divided by √ᾱₜ this is C⁰ + σₜ ε with σₜ = √((1 − ᾱₜ)/ᾱₜ). All code
here uses σ (Å) as the time of the process; β, ᾱ and t live in this file only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ASCENT = 0.86  # Å, the highest level from which the sampler `ancestral_ascent` climbs
REHEAT = 0.5  # Å, from where it climbs again
SETTLED = 0.2  # Å; of climbs that others follow, the lowest level
LEVELS_AGAIN = 2  # of every climb but the first, down to `SETTLED`
LEVELS_BELOW = 2  # of the first climb of `euler_ancestral_ascent`, down to `NEAR_SUMMIT`
NEAR_SUMMIT = 0.4  # Å
_RHO_BELOW = 3.0  # of its grid from there on
_NEAR = 0.8  # share of `SETTLED` that is as low


@dataclass(frozen=True)
class Schedule:
    """Sigmoid β schedule (GeoDiff §5.1 and its released configuration)."""

    steps: int = 5000
    beta_start: float = 1e-7
    beta_end: float = 2e-3

    @property
    def betas(self) -> np.ndarray:
        """(T,) β_t in float64."""
        ramp = 1.0 / (1.0 + np.exp(-np.linspace(-6.0, 6.0, self.steps)))
        return ramp * (self.beta_end - self.beta_start) + self.beta_start

    @property
    def alpha_bars(self) -> np.ndarray:
        """(T,) ᾱ_t = Π_{s≤t} (1 − β_s)."""
        return np.cumprod(1.0 - self.betas)

    @property
    def sigmas(self) -> np.ndarray:
        """(T,) σ_t in Å, increasing from 0.0022 to 12.17 with the default values."""
        alpha_bars = self.alpha_bars
        return np.sqrt((1.0 - alpha_bars) / alpha_bars)

    def subset(self, count: int | None = None) -> np.ndarray:
        """Decreasing σ of `count` of the T steps (all by default), evenly spaced in t, then 0."""
        return subset(self.sigmas, self.steps if count is None else count)


def subset(sigmas: np.ndarray, count: int) -> np.ndarray:
    """Decreasing σ of `count` of T steps, evenly spaced, then 0; `sigmas` (T,) increase."""
    if not 1 <= count <= len(sigmas):
        raise ValueError(f"a subset needs 1 to {len(sigmas)} steps, not {count}")
    index = np.linspace(len(sigmas) - 1, 0, count).round().astype(int)
    return np.append(sigmas[index], 0.0)


def karras_sigmas(
    count: int, sigma_min: float = 0.01, sigma_max: float = 12.17, rho: float = 7.0
) -> np.ndarray:
    """`count` decreasing noise levels in Å and a final 0 (Karras et al. 2022, eq. 5)."""
    if count < 1 or not 0 < sigma_min <= sigma_max:
        raise ValueError(f"no Karras grid of {count} levels from {sigma_max} to {sigma_min} Å")
    ramp = np.linspace(0.0, 1.0, count) if count > 1 else np.zeros(1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.append((high + ramp * (low - high)) ** rho, 0.0)


def ascent_sigmas(
    count: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
    foot: float = ASCENT,
    climbs: int = 1,
    reheat: float = REHEAT,
) -> np.ndarray:
    """`count` decreasing levels in Å for `ancestral_ascent`, and 0: two Karras grids that meet at
    `foot`, from where it climbs, at most `ASCENT`; then the levels of further climbs.

    These start from `reheat` each, or from `foot` if that is lower, where the grid rises again.
    All climbs but the last end at `SETTLED`. Where the range does not hold `foot`, there is one
    grid, and one climb.
    """
    above = levels_above_ascent(count)
    if above == count or not sigma_min < foot < sigma_max:
        return karras_sigmas(count, sigma_min, sigma_max, rho)
    high, low = _meeting(above, count - above, sigma_min, sigma_max, rho, foot)
    end, reheat = max(SETTLED, sigma_min), min(reheat, foot)
    if climbs == 1 or reheat <= end:
        return np.append(high, low)
    first, last = low[low >= _NEAR * end], low[low < _NEAR * end]
    again = np.geomspace(reheat, end, LEVELS_AGAIN)
    return np.concatenate([high, first, *[again] * (climbs - 1), last])


def stride_sigmas(
    count: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
    foot: float = ASCENT,
    climbs: int = 1,
    reheat: float = REHEAT,
) -> np.ndarray:
    """`count` decreasing levels in Å for `euler_ancestral_ascent`, then `reheat`, or `foot` if that
    is lower, for each further climb, and 0.

    The last `LEVELS_BELOW` of the `count` are the first climb, from `foot` to `sigma_min`; those
    above lie on a Karras grid. Where there is no room for both, all do.
    """
    above = count - LEVELS_BELOW
    if above < 1 or not sigma_min < foot < sigma_max:
        return karras_sigmas(count, sigma_min, sigma_max, rho)
    high, low = _meeting(above, LEVELS_BELOW, sigma_min, sigma_max, rho, foot)
    again = [min(reheat, foot)] * (climbs - 1)
    return np.concatenate([high, low[:-1], again, low[-1:]])


def _meeting(
    above: int, below: int, sigma_min: float, sigma_max: float, rho: float, foot: float
) -> tuple[np.ndarray, np.ndarray]:
    """Levels in Å of two Karras grids: above `foot`, and from there down, with 0."""
    high = karras_sigmas(above + 1, foot, sigma_max, rho)[:above]
    low = karras_sigmas(below, sigma_min, foot, _RHO_BELOW)
    low[0] = foot  # which rounding may have missed
    return high, low


def revisited(sigmas: np.ndarray, visits: int, lowest: float) -> np.ndarray:
    """Decreasing levels in Å in which the last one of at least `lowest` comes `visits` times."""
    again = sigmas[sigmas >= lowest][-1:]
    return np.sort(np.concatenate([sigmas, np.repeat(again, visits - 1)]))[::-1]


def levels_above_ascent(count: int) -> int:
    """How many of the levels of `ancestral_ascent` lie above its foot: four of nine, about."""
    return max(1, round(0.44 * count))
