"""Training loss and samplers of the original GeoDiff release, for its two-branch network.

They are kept apart from `samplers` because the network is no denoiser: its field is a sum over
edges that grows with an atom's neighbours, not the noise ε, and the update rules below are tuned to
it by hand. Like the original they walk consecutive steps t; leaving some out does not work with
them. All random numbers come from the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from rdgeodiff.diffusion.chain_rule import LossTerms, edge_terms
from rdgeodiff.diffusion.schedule import Schedule

# network(graphs, x, with_global) → scores with .edges, .global_field() and .local_field(); see
# `rdgeodiff.nn.dual_encoder`. `graphs` has .molecule (N,), the molecule of each atom, in order.
ScoreNetwork = Callable[..., Any]


@dataclass(frozen=True)
class NoiseTables:
    """β_t and ᾱ_t (T,) as a network was trained with.

    The original computes in float32, where σ_0 is 0.2 % off; take the tables of a checkpoint.
    """

    betas: torch.Tensor
    alpha_bars: torch.Tensor

    @staticmethod
    def of(schedule: Schedule) -> NoiseTables:
        """The float32 tables the original makes for this schedule."""
        betas = torch.from_numpy(schedule.betas).float()
        return NoiseTables(betas, (1.0 - betas).cumprod(0))

    @property
    def sigmas(self) -> torch.Tensor:
        """(T,) noise levels in Å."""
        return (1.0 - self.alpha_bars).sqrt() / self.alpha_bars.sqrt()

    def alpha_bar(self, step: int) -> torch.Tensor:
        """ᾱ before (0-dim); 1 for step −1, the clean structure."""
        return self.alpha_bars[step] if step >= 0 else torch.ones_like(self.alpha_bars[0])

    def to(self, device: torch.device | str) -> NoiseTables:
        """The same tables on another device."""
        return NoiseTables(self.betas.to(device), self.alpha_bars.to(device))


def antithetic_steps(draws: torch.Tensor, total: int, count: int) -> torch.Tensor:
    """(count,) steps: the draws from 0 … total − 1, then total − 1 minus each, cut to `count`."""
    return torch.cat([draws, total - 1 - draws])[:count]


def perturb(
    x: torch.Tensor,
    molecule: torch.Tensor,
    steps: torch.Tensor,
    noise: torch.Tensor,
    tables: NoiseTables,
) -> torch.Tensor:
    """x + σ_t ε (N, 3) in Å, with one step (M,) per molecule."""
    return x + noise * tables.sigmas[steps[molecule]].unsqueeze(-1)


def training_loss(
    network: ScoreNetwork,
    graphs: Any,
    x: torch.Tensor,
    steps: torch.Tensor,
    noise: torch.Tensor,
    tables: NoiseTables,
) -> LossTerms:
    """Squared error of the predicted coordinate fields, per atom (GeoDiff-C).

    The target of an edge is (d_clean − d_noisy)/σ; edges come from the noisy coordinates. The
    original minimises the mean of `per_atom`.

    Args:
        network: gives scores of edges.
        graphs: M molecules, N atoms.
        x: (N, 3) clean positions in Å.
        steps: (M,) int64 step t of each molecule.
        noise: (N, 3) standard normal.
        tables: noise levels.
    """
    scores = network(graphs, perturb(x, graphs.molecule, steps, noise, tables))
    return edge_terms(scores, x, tables.sigmas[steps[graphs.molecule]])


RETRY_CLIP = 20.0  # `clip_local` of the second try after positions that are not finite


@dataclass(frozen=True)
class OriginalSampling:
    """Settings of the original samplers, with their names and defaults.

    Attributes:
        step_lr: Langevin step at σ = 0.01 Å.
        w_global: weight of the global field (its authors advise 0.3 for QM9).
        global_start_sigma: Å; at and above it only the local field acts.
        clip, clip_local: longest vector per atom of the global and local field; None for no limit.
        eta: share of noise in `generalized`.
    """

    step_lr: float = 1e-6
    w_global: float = 1.0
    global_start_sigma: float = 0.5
    clip: float | None = 1000.0
    clip_local: float | None = None
    eta: float = 1.0


# (x, field, noise, tables, step, step after it, settings) → x
Update = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, NoiseTables, int, int, OriginalSampling],
    torch.Tensor,
]


def langevin(
    x: torch.Tensor,
    field: torch.Tensor,
    noise: torch.Tensor,
    tables: NoiseTables,
    step: int,
    after: int,
    settings: OriginalSampling,
) -> torch.Tensor:
    """Annealed Langevin dynamics ("ld", the default)."""
    sigma = tables.sigmas[step]
    size = settings.step_lr * (sigma / 0.01) ** 2
    return x + size * field / sigma + noise * (2 * size).sqrt()


def ddpm_noisy(
    x: torch.Tensor,
    field: torch.Tensor,
    noise: torch.Tensor,
    tables: NoiseTables,
    step: int,
    after: int,
    settings: OriginalSampling,
) -> torch.Tensor:
    """DDPM's ancestral step with −field as ε, written for scaled coordinates though x is not."""
    now, then = tables.alpha_bar(step), tables.alpha_bar(after)
    beta = 1 - now / then
    clean = (1.0 / now).sqrt() * x + (1.0 / now - 1).sqrt() * field
    mean = (then.sqrt() * beta * clean + (1 - beta).sqrt() * (1 - then) * x) / (1.0 - now)
    return mean + beta.sqrt() * noise if step > 0 else mean


def generalized(
    x: torch.Tensor,
    field: torch.Tensor,
    noise: torch.Tensor,
    tables: NoiseTables,
    step: int,
    after: int,
    settings: OriginalSampling,
) -> torch.Tensor:
    """The smaller of a Langevin step and 5 times DDIM's; of its noise and 3 times DDIM's."""
    sigma, now, then = tables.sigmas[step], tables.alpha_bar(step), tables.alpha_bar(after)
    size = settings.step_lr * (sigma / 0.01) ** 2
    spread = settings.eta * ((1 - now / then) * (1 - then) / (1 - now)).sqrt()
    rest = (1 - then - spread**2).sqrt()
    drift = 5 * ((1 - now).sqrt() / now.sqrt() - rest / then.sqrt())
    kick = 3 * spread / then.sqrt()
    move = torch.minimum(size / sigma, drift)
    return x + move * field + torch.minimum((2 * size).sqrt(), kick) * noise


ORIGINAL_SAMPLERS: dict[str, Update] = {
    "ld": langevin,
    "ddpm_noisy": ddpm_noisy,
    "generalized": generalized,
}


class SampledStep(NamedTuple):
    """What a callback is told: the step t, x (N, 3) after it, and the fields used (N, 3)."""

    step: int
    x: torch.Tensor
    local: torch.Tensor
    of_global: torch.Tensor


def sample(
    network: ScoreNetwork,
    graphs: Any,
    x: torch.Tensor,
    tables: NoiseTables,
    *,
    noise: Callable[[int], torch.Tensor],
    sampler: str = "ld",
    settings: OriginalSampling | None = None,
    steps: Sequence[int] | None = None,
    callback: Callable[[SampledStep], None] | None = None,
) -> torch.Tensor:
    """Walk steps t downwards with one of the original update rules.

    Args:
        network: gives scores of edges.
        graphs: the molecules, N atoms.
        x: (N, 3) positions in Å at the first step; the original starts at σ_T ε, not centred.
        tables: noise levels.
        noise: noise(t) gives (N, 3) standard normal.
        sampler: key of `ORIGINAL_SAMPLERS`.
        steps: decreasing t; all T of them by default.

    Returns:
        (N, 3) positions in Å, each molecule centred.

    Raises:
        FloatingPointError: positions stopped being finite; the original then tries once more with
            `clip_local` at RETRY_CLIP.
    """
    update, settings = ORIGINAL_SAMPLERS[sampler], settings or OriginalSampling()
    order = list(range(len(tables.betas) - 1, -1, -1) if steps is None else steps)
    sigmas = tables.sigmas
    with torch.no_grad():
        for step, after in zip(order, [*order[1:], -1], strict=True):
            with_global = bool(sigmas[step] < settings.global_start_sigma)
            scores = network(graphs, x, with_global)
            local = clip_field(scores.local_field(), settings.clip_local)
            far = torch.zeros_like(x)
            if with_global:
                far = clip_field(scores.global_field(), settings.clip)
            field = local + settings.w_global * far
            x = update(x, field, noise(step), tables, step, after, settings)
            if not bool(x.isfinite().all()):
                raise FloatingPointError(f"positions are not finite after step {step}")
            x = _centered(x, graphs.molecule)
            if callback is not None:
                callback(SampledStep(step, x, local, far))
    return x


def clip_field(field: torch.Tensor, limit: float | None) -> torch.Tensor:
    """Shorten vectors (N, 3) longer than `limit`."""
    if limit is None:
        return field
    length = field.norm(dim=-1, keepdim=True)
    return torch.where(length > limit, field * (limit / length), field)


def _centered(x: torch.Tensor, molecule: torch.Tensor) -> torch.Tensor:
    size = torch.bincount(molecule).unsqueeze(-1)
    total = x.new_zeros(len(size), 3).index_add(0, molecule, x)
    return x - (total / size)[molecule]
