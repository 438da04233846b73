"""The original network, loss and samplers, number by number against the public code.

The fixtures were computed in float32 by that code with random weights; see their README. `cap` is
the neighbour cap of its CUDA kernels, `nocap` none.
"""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from original_fixtures import (
    CAPS,
    FIXTURES,
    MOLECULES,
    VARIANTS,
    arrays,
    assert_close,
    graphs_of,
    network_of,
    tables_of,
    tensor,
)
from torch import nn

from rdgeodiff.diffusion.edge_scores import field_denoiser
from rdgeodiff.diffusion.langevin import langevin
from rdgeodiff.diffusion.original_geodiff import (
    NoiseTables,
    OriginalSampling,
    antithetic_steps,
    perturb,
    sample,
    training_loss,
)
from rdgeodiff.diffusion.schedule import Schedule
from rdgeodiff.geometry import center

LOSSES = sorted(p.stem for p in FIXTURES.glob("loss_*.npz"))
SAMPLES = sorted(p.stem for p in FIXTURES.glob("sample_*.npz"))

pytestmark = pytest.mark.usefixtures("one_thread")


def recording(network: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    """Outputs of the named submodules, filled in by the next calls."""
    seen: dict[str, torch.Tensor] = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, output)
        )
    return seen


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("name", MOLECULES)
def test_forward(name, cap, variant):
    data = arrays(f"forward_{name}")
    graphs, network = graphs_of(data), network_of(variant, cap)
    names = {"encoder_global": "node_attr_global", "encoder_local": "node_attr_local"}
    if len(graphs.atom_type) <= 9:
        names["edge_encoder_global"] = "edge_attr"
        for k in range(2):
            names[f"encoder_global.interactions.{k}"] = f"schnet_update_{k}"
            names[f"encoder_local.convs.{k}"] = f"gin_conv_{k}"
    seen = recording(network, list(names))
    for geometry in "AB":
        x = tensor(data, f"pos_{geometry}")
        with torch.no_grad():
            scores = network(graphs, x)
        place = f"{geometry}.{cap}"
        assert_close(scores.edges.index, tensor(data, f"{place}.edge_index"))
        assert_close(scores.edges.type, tensor(data, f"{place}.edge_type"))
        assert_close(scores.edges.length, tensor(data, f"{place}.edge_length"))
        assert_close(scores.edges.is_local, tensor(data, f"{place}.is_local"))
        place = f"{place}.{variant}"
        assert_close(scores.of_global, tensor(data, f"{place}.edge_inv_global"))
        assert_close(scores.of_local, tensor(data, f"{place}.edge_inv_local"))
        assert_close(scores.global_field(), tensor(data, f"{place}.node_eq_global"))
        assert_close(scores.local_field(), tensor(data, f"{place}.node_eq_local"))
        for module, array in names.items():
            assert_close(seen[module], tensor(data, f"{place}.{array}"))


@pytest.mark.parametrize("name", ["T5000_sigmoid_1e-7_2e-3", "T1000_sigmoid_1e-7_9e-3"])
def test_float32_tables(name):
    table = json.loads((FIXTURES / "schedules.json").read_text())[name]
    tables = NoiseTables.of(Schedule(table["T"], table["beta_start"], table["beta_end"]))
    for ours, key in ((tables.betas, "beta"), (tables.alpha_bars, "alpha_bar")):
        expected = torch.tensor(table[f"{key}_float32"], dtype=torch.float32)
        torch.testing.assert_close(ours[table["index"]], expected, rtol=2e-7, atol=0)
    expected = torch.tensor(table["sigma_float32"], dtype=torch.float32)
    torch.testing.assert_close(tables.sigmas[table["index"]], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_complete_float32_tables(variant):
    ours, stored = NoiseTables.of(Schedule()), tables_of(variant)
    torch.testing.assert_close(ours.betas, stored.betas, rtol=2e-7, atol=0)
    torch.testing.assert_close(ours.alpha_bars, stored.alpha_bars, rtol=2e-7, atol=0)


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("name", LOSSES)
def test_loss(name, cap):
    data, variant = arrays(name), name.rpartition("_")[2]
    graphs, network, tables = graphs_of(data), network_of(variant, cap), tables_of(variant)
    count = int(graphs.molecule.max()) + 1
    steps = antithetic_steps(tensor(data, "randint_draws"), len(tables.betas), count)
    assert_close(steps, tensor(data, "time_step"))
    x, noise = tensor(data, "pos"), tensor(data, "pos_noise")
    assert_close(perturb(x, graphs.molecule, steps, noise, tables), tensor(data, "pos_perturbed"))

    network.train()
    terms = training_loss(network, graphs, x, steps, noise, tables)
    for ours, key in (
        (terms.field_global, "node_eq_global"),
        (terms.target_global, "target_pos_global"),
        (terms.field_local, "node_eq_local"),
        (terms.target_local, "target_pos_local"),
        (terms.of_global, "loss_global"),
        (terms.of_local, "loss_local"),
        (terms.per_atom, "loss"),
    ):
        assert_close(ours, tensor(data, f"{cap}.{key}"), 1e-5)
    # Each atom's loss counts, not only the largest.
    torch.testing.assert_close(
        terms.per_atom.detach(), tensor(data, f"{cap}.loss"), rtol=1e-4, atol=1e-4
    )
    mean = terms.per_atom.mean()
    assert float(mean.detach()) == pytest.approx(float(data[f"{cap}.loss_mean"]), rel=1e-6)

    gradients = {k.partition("grad.")[2] for k in data if k.startswith(f"{cap}.grad.")}
    if not gradients:
        return
    mean.backward()
    for key, parameter in network.named_parameters():
        if key not in gradients:
            assert key in data[f"{cap}.params_without_grad"].tolist()
            assert parameter.grad is None
        else:
            assert_close(parameter.grad, tensor(data, f"{cap}.grad.{key}"), 1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_five_training_steps(variant):
    data = arrays(f"train5_{variant}")
    graphs, network, tables = graphs_of(data), network_of(variant, "cap"), tables_of(variant)
    network.train()
    optimizers = [
        torch.optim.Adam(group, lr=1e-3, betas=(0.95, 0.999))
        for group in network.optimizer_parameters()
    ]
    for k, draws in enumerate(tensor(data, "randint_draws")):
        steps = antithetic_steps(draws, len(tables.betas), 3)
        noise = tensor(data, "pos_noise")[k]
        terms = training_loss(network, graphs, tensor(data, "pos"), steps, noise, tables)
        for optimizer in optimizers:
            optimizer.zero_grad()
        terms.per_atom.mean().backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), float(data["max_grad_norm"]))
        for optimizer in optimizers:
            optimizer.step()
        for ours, key in (
            (terms.per_atom.mean(), "loss"),
            (terms.of_global.mean(), "loss_global"),
            (terms.of_local.mean(), "loss_local"),
            (norm, "grad_norm"),
        ):
            assert float(ours.detach()) == pytest.approx(float(data[key][k]), rel=1e-5)
    for key, parameter in network.named_parameters():
        expected = tensor(data, f"final.{key}")
        if key == "encoder_global.embedding.weight":
            # Sodium is in none of these molecules: the original never looked its row up.
            expected[11] *= 10 / (expected[11].norm() + 1e-7)
        assert_close(parameter, expected, 2e-5)


@pytest.mark.parametrize("name", SAMPLES)
def test_sampler(name):
    data, variant = arrays(name), name.rpartition("_")[2]
    graphs, network, tables = graphs_of(data), network_of(variant, "cap"), tables_of(variant)
    assert_close(graphs.local_index, tensor(data, "ext_edge_index"))
    assert_close(graphs.local_type, tensor(data, "ext_edge_type"))
    steps = data["step_index"].tolist()
    torch.testing.assert_close(tables.sigmas[steps], tensor(data, "sigma"), rtol=1e-6, atol=0)
    settings = OriginalSampling(
        **{
            key: None if np.isnan(data[key]) else float(data[key])
            for key in OriginalSampling.__dataclass_fields__
        }
    )
    assert (OriginalSampling() == settings) == ("clip" not in name)
    start = tensor(data, "cap.pos_before_first")
    if "start" in name:
        assert_close(tensor(data, "pos_init") * tables.sigmas[-1], start)
    edges: list[int] = []
    network.register_forward_hook(
        lambda _module, _inputs, scores: edges.append(len(scores.edges.type))
    )
    trace = []
    last = sample(
        network,
        graphs,
        start,
        tables,
        noise=lambda step: tensor(data, "noise")[steps.index(step)],
        sampler=str(data["sampling_type"]),
        settings=settings,
        steps=steps,
        callback=trace.append,
    )
    assert [t.step for t in trace] == steps
    assert edges == data["cap.num_edges"].tolist()
    assert torch.equal(last, trace[-1].x)
    assert [bool((t.of_global != 0).any()) for t in trace] == data["global_on"].tolist()
    assert_close(torch.stack([t.x for t in trace]), tensor(data, "cap.pos_after"), 1e-5)
    for ours, key in (("local", "node_eq_local"), ("of_global", "node_eq_global")):
        fields = torch.stack([getattr(t, ours) for t in trace])
        assert_close(fields, tensor(data, f"cap.{key}"), 1e-4)


@pytest.mark.parametrize("name", [n for n in SAMPLES if "_ld_" in n])
def test_langevin_through_a_denoiser_is_the_same(name):
    """The house's own sampler on padded positions, step by step as the original."""
    data, variant = arrays(name), name.rpartition("_")[2]
    graphs, network, tables = graphs_of(data), network_of(variant, "cap"), tables_of(variant)
    sizes = torch.bincount(graphs.molecule)
    mask = torch.arange(int(sizes.max()) + 2) < sizes.unsqueeze(1)
    settings = OriginalSampling(
        **{
            key: None if np.isnan(data[key]) else float(data[key])
            for key in OriginalSampling.__dataclass_fields__
        }
    )

    def padded(values: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(*mask.shape, 3)
        out[mask] = values
        return out

    levels = tables.sigmas[data["step_index"].tolist()].tolist()
    noise = tensor(data, "noise")
    trace = []
    with torch.no_grad():
        last = langevin(
            field_denoiser(functools.partial(network, graphs), mask, settings),
            padded(tensor(data, "cap.pos_before_first")),
            [*levels, 0.0],
            noise=lambda step: center(padded(noise[step]), mask),
            callback=lambda step, sigma, x, denoised: trace.append(x[mask]),
            rate=settings.step_lr / 0.01**2,
        )
    expected = tensor(data, "cap.pos_after")
    # The original centres after its first step, so its start is compared by what comes of it.
    ours = torch.stack([*trace[1:], last[mask]])
    centred = torch.stack([center(padded(x), mask)[mask] for x in ours])
    assert_close(centred, expected, 1e-5)
    assert bool((last[~mask] == 0).all())
