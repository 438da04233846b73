"""The kinds of networks there are, and how conformers are drawn with each.

A network knows no sampler and a sampler knows no network. A `Process` stands between them: it makes
a denoiser of a network and says which noise levels a sampler visits with it. Whoever loads, trains,
writes or runs a model finds here what its architecture needs, by the name in its description.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from rdgeodiff.diffusion import denoiser as denoising
from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.diffusion.edge_scores import distance_denoiser, field_denoiser
from rdgeodiff.diffusion.langevin import langevin, staged, staged_sigmas
from rdgeodiff.diffusion.original_geodiff import RETRY_CLIP, NoiseTables, OriginalSampling
from rdgeodiff.diffusion.samplers import SAMPLERS, Sampler
from rdgeodiff.diffusion.schedule import (
    ASCENT,
    REHEAT,
    Schedule,
    ascent_sigmas,
    karras_sigmas,
    revisited,
    stride_sigmas,
    subset,
)
from rdgeodiff.graph import ELEMENTS, NODE_DIM, PAIR_DIM, MolBatch
from rdgeodiff.nn.atom_graphs import AtomGraphs
from rdgeodiff.nn.dual_encoder import DualEncoderConfig, DualEncoderEpsNetwork
from rdgeodiff.nn.graph_field import GraphFieldConfig, GraphFieldNetwork

# Samplers that walk the T steps of the schedule, or some of them, and not a grid of their own.
_ON_SCHEDULE = ("ancestral", "langevin")
# Those that climb from a foot that depends on a molecule's size, and may do so again.
_CLIMBING = {"ancestral_ascent": ascent_sigmas, "euler_ancestral_ascent": stride_sigmas}
_THEORY = "theories."  # before the names of `FieldProcess.theories` in a file
SWITCH = 0.5  # Å, where "staged" goes over to Langevin dynamics
_FEATURES = [NODE_DIM, PAIR_DIM, list(ELEMENTS)]


LARGE = sys.maxsize  # atoms of a molecule that takes all of a model's steps


@dataclass(frozen=True)
class Sampling:
    """How conformers are drawn from a model unless the caller says otherwise.

    Attributes:
        sampler: name of a sampler.
        steps: noise levels visited.
        steps_small: of molecules of up to `atoms_small` atoms, which need fewer; between those and
            the ones of at least `atoms_large`, which take `steps`, in proportion. 0: all alike.
        sigma_min, sigma_max: Å; rho: of the Karras grid.
        foot, foot_small: Å, where `ancestral_ascent` and `euler_ancestral_ascent` begin to climb,
            with large molecules and with small ones as above; at most
            `rdgeodiff.diffusion.schedule.ASCENT`.
        climbs: how often they climb, with large molecules; small ones as above need it once. `ddim`
            visits one level so often.
        reheat: Å, from where they climb again; not above the foot. With `ddim` the level is the
            last one that is not lower.
        noise_scale: of the noise this sampler adds in its steps. A network that has not learnt
            everything blurs what it has; less noise than theory asks for sharpens it again, at the
            cost of diversity (as low temperatures do).
    """

    sampler: str = "dpm_solver_pp_2m_sde"
    steps: int = 25
    sigma_min: float = 0.01
    sigma_max: float = 12.17
    rho: float = 7.0
    noise_scale: float = 1.0
    steps_small: int = 0
    atoms_small: int = 0
    atoms_large: int = 0
    foot: float = ASCENT
    foot_small: float = ASCENT
    climbs: int = 1
    reheat: float = REHEAT

    def steps_for(self, n_atoms: int) -> int:
        """Noise levels visited for a molecule of so many atoms."""
        if not self.steps_small:
            return self.steps
        return round(self._between(self.steps_small, self.steps, n_atoms))

    def foot_for(self, n_atoms: int) -> float:
        """Where the ascent begins for a molecule of so many atoms."""
        return self._between(self.foot_small, self.foot, n_atoms)

    def climbs_for(self, n_atoms: int) -> int:
        """How often a molecule of so many atoms is climbed."""
        return round(self._between(1, self.climbs, n_atoms))

    def _between(self, small: float, large: float, n_atoms: int) -> float:
        if n_atoms >= self.atoms_large:
            return large
        share = max(n_atoms - self.atoms_small, 0) / (self.atoms_large - self.atoms_small)
        return small + share * (large - small)


class Process(Protocol):
    """How networks of one architecture are sampled."""

    def bind(
        self, network: nn.Module, graphs: MolBatch, sampler: str, bf16: bool = False
    ) -> Denoiser:
        """A denoiser of one batch, fit for the sampler of this name.

        With `bf16` the network's matrix products are taken in bfloat16, where it stands that.
        """

    def sampler(self, name: str) -> Sampler:
        """The sampler of this name; ValueError if there is none."""

    def noise_levels(
        self, sampling: Sampling, sampler: str, steps: int, atoms: int = LARGE
    ) -> list[float]:
        """Noise levels in Å and 0, which decrease but where a climb starts anew; `steps` 0 for the
        default of so many `atoms`."""

    def cautious(self, sampler: str) -> Process | None:
        """The process of a second try where positions stopped being finite, if there is one."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What has to be stored beside the network's own weights."""


@dataclass(frozen=True)
class FieldProcess:
    """Of a `GraphFieldNetwork`, which is preconditioned to a denoiser.

    Attributes:
        theories: offsets (H,) of levels of theory it was trained beside (`rdgeodiff.nn.theories`);
            further training alone has a use for them.
    """

    theories: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def bind(
        self, network: nn.Module, graphs: MolBatch, sampler: str, bf16: bool = False
    ) -> Denoiser:
        def field(*inputs: torch.Tensor) -> torch.Tensor:
            # Around the network alone: positions and noise levels stay in single precision.
            with torch.autocast(inputs[1].device.type, torch.bfloat16, enabled=bf16):
                return network(*inputs).float()

        return denoising.bind(field, graphs)

    def sampler(self, name: str) -> Sampler:
        return _find(name, langevin=langevin)

    def noise_levels(
        self, sampling: Sampling, sampler: str, steps: int, atoms: int = LARGE
    ) -> list[float]:
        return _levels(Schedule().sigmas, sampling, sampler, steps, atoms)

    def cautious(self, sampler: str) -> Process | None:
        return None

    def tensors(self) -> dict[str, torch.Tensor]:
        return {_THEORY + name: offset for name, offset in self.theories.items()}


@dataclass(frozen=True)
class EdgeScoreProcess:
    """Of a `DualEncoderEpsNetwork`, which scores edges.

    "langevin" runs as in the original, second try with clipped local scores included. All other
    samplers get the structure whose distances the scores speak of, or the sum of the scores where
    training superposed its targets (GeoDiff-A). "staged" gets the first at high noise and the
    second below: few steps, and a finish in which the errors of single predictions average out.

    Attributes:
        tables: the schedule the network was trained with.
        settings: of the original samplers.
        objective: key of `rdgeodiff.diffusion.objectives.OBJECTIVES`.
    """

    tables: NoiseTables = field(default_factory=lambda: NoiseTables.of(Schedule()))
    settings: OriginalSampling = field(default_factory=OriginalSampling)
    objective: str = "chain_rule"

    def bind(
        self, network: nn.Module, graphs: MolBatch, sampler: str, bf16: bool = False
    ) -> Denoiser:
        # Sums over edges reach thousands: in single precision whatever `bf16` says.
        assert isinstance(network, DualEncoderEpsNetwork)
        score = functools.partial(network, AtomGraphs.from_batch(graphs, network.config.edge_order))
        if self.objective == "aligned" or sampler == "langevin":
            return field_denoiser(score, graphs.mask, self.settings)
        by_distances = distance_denoiser(score, graphs.mask, self.settings)
        if sampler != "staged":
            return by_distances
        by_field = field_denoiser(score, graphs.mask, self.settings, divided=True)
        return lambda x, sigma: (by_distances if _is_high(sigma) else by_field)(x, sigma)

    def sampler(self, name: str) -> Sampler:
        rate = self.settings.step_lr / 0.01**2
        return _find(
            name,
            langevin=functools.partial(langevin, rate=rate),
            staged=functools.partial(staged, switch=SWITCH),
        )

    def noise_levels(
        self, sampling: Sampling, sampler: str, steps: int, atoms: int = LARGE
    ) -> list[float]:
        if sampler == "staged":
            count = steps or sampling.steps_for(atoms)
            return staged_sigmas(count, sampling.sigma_min, sampling.sigma_max, SWITCH)
        schedule = self.tables.sigmas.double().cpu().numpy()
        return _levels(schedule, sampling, sampler, steps, atoms)

    def cautious(self, sampler: str) -> Process | None:
        if sampler != "langevin" or self.settings.clip_local is not None:
            return None
        settings = dataclasses.replace(self.settings, clip_local=RETRY_CLIP)
        return dataclasses.replace(self, settings=settings)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"betas": self.tables.betas, "alphas": self.tables.alpha_bars}


@dataclass(frozen=True)
class Architecture:
    """What files and training runs need to know of one kind of network.

    Attributes:
        config: dataclass of its sizes.
        network: makes it from one of those.
        sampling: how conformers are drawn from it by default.
        description: more of what stands in the JSON beside its weights.
        process: from that JSON and the tensors that are not the network's; KeyError, TypeError or
            ValueError where they do not fit.
    """

    config: type
    network: Callable[[Any], nn.Module]
    sampling: Sampling
    description: Mapping[str, Any]
    process: Callable[[Mapping[str, Any], Mapping[str, torch.Tensor]], Process]


def architecture(name: Any) -> Architecture:
    """The architecture of this name; ValueError if there is none."""
    found = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    return found


def _field_process(info: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Process:
    if info["features"] != _FEATURES:
        raise ValueError("made for another feature table")
    size = (GraphFieldConfig(**info["network"]).node_width,)
    if others := [k for k, v in tensors.items() if not k.startswith(_THEORY) or v.shape != size]:
        raise ValueError(f"unexpected tensors {', '.join(others)}")
    return FieldProcess({name.removeprefix(_THEORY): v for name, v in tensors.items()})


def _edge_score_process(info: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Process:
    tables = NoiseTables(tensors["betas"], tensors["alphas"])
    if len(tensors) != 2 or len(tables.betas) != len(tables.alpha_bars):
        raise ValueError("tables of noise levels do not fit each other")
    settings = OriginalSampling(**info.get("original_sampling", {}))
    return EdgeScoreProcess(tables, settings, info.get("objective", "chain_rule"))


ARCHITECTURES: dict[str, Architecture] = {
    "GraphFieldNetwork": Architecture(
        GraphFieldConfig, GraphFieldNetwork, Sampling(), {"features": _FEATURES}, _field_process
    ),
    "DualEncoderEpsNetwork": Architecture(
        DualEncoderConfig,
        DualEncoderEpsNetwork,
        Sampling(sampler="staged", steps=100),
        {"original_sampling": dataclasses.asdict(OriginalSampling())},
        _edge_score_process,
    ),
}


def _is_high(sigma: torch.Tensor) -> bool:
    return float(sigma.max()) >= SWITCH


def _find(name: str, **others: Sampler) -> Sampler:
    known = {**SAMPLERS, **others}
    if name not in known:
        raise ValueError(f"unknown sampler {name!r}; known: {', '.join(sorted(known))}")
    return known[name]


def _levels(
    schedule: np.ndarray, sampling: Sampling, sampler: str, steps: int, atoms: int
) -> list[float]:
    default = len(schedule) if sampler == "langevin" else sampling.steps
    count = steps or (sampling.steps_for(atoms) if sampler == sampling.sampler else default)
    if sampler in _CLIMBING:
        return _CLIMBING[sampler](
            count,
            sampling.sigma_min,
            sampling.sigma_max,
            sampling.rho,
            foot=sampling.foot_for(atoms),
            climbs=sampling.climbs_for(atoms),
            reheat=sampling.reheat,
        ).tolist()
    if sampler in _ON_SCHEDULE:
        return subset(schedule, count).tolist()
    grid = karras_sigmas(count, sampling.sigma_min, sampling.sigma_max, sampling.rho)
    if sampler == "ddim":
        grid = revisited(grid, sampling.climbs_for(atoms), sampling.reheat)
    return grid.tolist()
