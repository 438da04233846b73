"""The kinds of networks there are, and how conformers are drawn with each.

A network knows no sampler and a sampler knows no network. A `Process` stands between them: it makes
a denoiser of a network and says which noise levels a sampler visits with it. Whoever loads, trains,
writes or runs a model finds here what its architecture needs, by the name in its description.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from rdgeodiff.diffusion import denoiser as denoising
from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.diffusion.edge_scores import distance_denoiser, field_denoiser
from rdgeodiff.diffusion.langevin import langevin, staged, staged_sigmas
from rdgeodiff.diffusion.original_geodiff import RETRY_CLIP, NoiseTables, OriginalSampling
from rdgeodiff.diffusion.samplers import SAMPLERS, Sampler
from rdgeodiff.diffusion.schedule import Schedule
from rdgeodiff.graph import ELEMENTS, NODE_DIM, PAIR_DIM, MolBatch
from rdgeodiff.nn.atom_graphs import AtomGraphs
from rdgeodiff.nn.dual_encoder import DualEncoderConfig, DualEncoderEpsNetwork
from rdgeodiff.nn.graph_field import GraphFieldConfig, GraphFieldNetwork
from rdgeodiff.sampling import LARGE, Sampling, levels_of

_THEORY = "theories."  # before the names of `FieldProcess.theories` in a file
SWITCH = 0.5  # Å, where "staged" goes over to Langevin dynamics
_FEATURES = [NODE_DIM, PAIR_DIM, list(ELEMENTS)]


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
        return levels_of(Schedule().sigmas, sampling, sampler, steps, atoms)

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
        return levels_of(schedule, sampling, sampler, steps, atoms)

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
