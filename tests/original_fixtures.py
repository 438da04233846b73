"""Numbers that the original code has computed, and its small model with our code around it."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import torch

from rdgeodiff.diffusion.original_geodiff import NoiseTables
from rdgeodiff.nn.atom_graphs import AtomGraphs
from rdgeodiff.nn.dual_encoder import DualEncoderConfig, DualEncoderEpsNetwork

FIXTURES = Path(__file__).parent / "fixtures" / "geodiff_official"
MOLECULES = sorted(p.stem.removeprefix("forward_") for p in FIXTURES.glob("forward_*.npz"))
CAPS = {"cap": 32, "nocap": None}
VARIANTS = ("hard", "smooth")


@functools.cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def tensor(data: dict[str, np.ndarray], key: str) -> torch.Tensor:
    """Integers come as int64."""
    value = torch.from_numpy(np.array(data[key]))
    return value if value.is_floating_point() or value.dtype == torch.bool else value.long()


def network_of(variant: str, cap: str) -> DualEncoderEpsNetwork:
    """The small model; loading is strict."""
    weights = arrays(f"small_model_{variant}")
    config = json.loads((FIXTURES / f"small_model_{variant}.json").read_text())["model"]
    size = dataclasses.replace(DualEncoderConfig.from_original(config), max_neighbors=CAPS[cap])
    network = DualEncoderEpsNetwork(size)
    skipped = ("model_global.", "model_local.", "betas", "alphas")
    network.load_state_dict(
        {k: tensor(weights, k) for k in weights if not k.startswith(skipped)}, strict=True
    )
    return network.eval()


def tables_of(variant: str) -> NoiseTables:
    weights = arrays(f"small_model_{variant}")
    return NoiseTables(tensor(weights, "betas"), tensor(weights, "alphas"))


def graphs_of(data: dict[str, np.ndarray]) -> AtomGraphs:
    atoms = tensor(data, "atom_type")
    molecule = tensor(data, "batch") if "batch" in data else torch.zeros_like(atoms)
    if "bond_edge_type" in data:
        bonds, types = tensor(data, "bond_edge_index"), tensor(data, "bond_edge_type")
    else:  # the sampler's files tell bond types only among the local edges
        bonds, types = tensor(data, "ext_edge_index"), tensor(data, "ext_edge_type")
        bonds, types = bonds[:, types < 22], types[types < 22]
    return AtomGraphs.from_bonds(atoms, molecule, bonds, types)


def assert_close(ours: torch.Tensor, expected: torch.Tensor | np.ndarray, rtol: float = 1e-5):
    """Every entry within `rtol` of the largest expected one; equal where numbers are whole."""
    ours, expected = ours.detach(), torch.as_tensor(expected)
    assert ours.shape == expected.shape
    if not expected.is_floating_point():
        assert torch.equal(ours.long(), expected.long())
        return
    assert bool(ours.isfinite().all())
    worst = (ours.double() - expected.double()).abs().max()
    assert worst <= rtol * expected.abs().max(), float(worst / expected.abs().max())
