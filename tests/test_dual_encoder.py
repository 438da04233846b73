"""The original network, loss and samplers, number by number against the public code.

The fixtures were computed in float32 by that code with random weights; see their README. `cap` is
the neighbour cap of its CUDA kernels, `nocap` none.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import graph_of
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
from rdgeodiff.graph import GraphError, MolBatch
from rdgeodiff.nn.atom_graphs import AtomGraphs, radius_edges
from rdgeodiff.nn.dual_encoder import DualEncoderConfig, DualEncoderEpsNetwork

FIXTURES = Path(__file__).parent / "fixtures" / "geodiff_official"
MOLECULES = sorted(p.stem.removeprefix("forward_") for p in FIXTURES.glob("forward_*.npz"))
LOSSES = sorted(p.stem for p in FIXTURES.glob("loss_*.npz"))
SAMPLES = sorted(p.stem for p in FIXTURES.glob("sample_*.npz"))
CAPS = {"cap": 32, "nocap": None}
VARIANTS = ("hard", "smooth")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def recording(network: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    """Outputs of the named submodules, filled in by the next calls."""
    seen: dict[str, torch.Tensor] = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, output)
        )
    return seen


# Edges


@pytest.mark.parametrize("name", MOLECULES)
def test_local_and_radius_edges(name):
    data = arrays(f"forward_{name}")
    graphs = graphs_of(data)
    assert_close(graphs.local_index, tensor(data, "ext_edge_index"))
    assert_close(graphs.local_type, tensor(data, "ext_edge_type"))
    for geometry in "AB":
        x = tensor(data, f"pos_{geometry}")
        for cap, limit in CAPS.items():
            ours = torch.stack(radius_edges(x, graphs.molecule, 10.0, limit))
            assert_close(ours, tensor(data, f"{geometry}.{cap}.radius_edge_index"))


def test_cap_keeps_the_first_33_in_range_itself_included():
    x = torch.linspace(0.0, 9.0, 50).unsqueeze(-1) * torch.tensor([1.0, 0.0, 0.0])
    source, target = radius_edges(x, torch.zeros(50, dtype=torch.int64), 10.0, 32)
    for atom in range(50):
        expected = [k for k in range(33) if k != atom]
        assert source[target == atom].tolist() == expected
    # 32 neighbours for the early atoms, 33 for the late ones.
    assert torch.bincount(target).unique().tolist() == [32, 33]


def test_molecules_of_a_batch_do_not_see_each_other():
    data = arrays("loss_batch7_hard")
    graphs = graphs_of(data)
    for limit in CAPS.values():
        source, target = radius_edges(
            torch.zeros(len(graphs.molecule), 3), graphs.molecule, 1, limit
        )
        assert torch.equal(graphs.molecule[source], graphs.molecule[target])
    assert torch.equal(*graphs.molecule[graphs.local_index])


def test_featurised_molecules_give_the_same_graphs():
    names = ("aspirin", "salt", "alkyne_ammonium")
    ours = AtomGraphs.from_graphs([graph_of(str(arrays(f"forward_{n}")["smiles"])) for n in names])
    start = 0
    for row, name in enumerate(names):
        expected = graphs_of(arrays(f"forward_{name}"))
        atoms = ours.molecule == row
        edges = ours.molecule[ours.local_index[0]] == row
        assert torch.equal(ours.atom_type[atoms], expected.atom_type)
        assert torch.equal(ours.local_index[:, edges] - start, expected.local_index)
        assert torch.equal(ours.local_type[edges], expected.local_type)
        start += len(expected.atom_type)


def test_dative_bonds_have_their_number():
    graphs = AtomGraphs.from_graphs([graph_of("C"), graph_of("[NH3]->B")])
    nitrogen, boron = 5, 6
    assert graphs.atom_type[[nitrogen, boron]].tolist() == [7, 5]
    between = (graphs.local_index == torch.tensor([[nitrogen], [boron]])).all(0)
    assert graphs.local_type[between].tolist() == [17]


def test_order_of_edges_must_be_known():
    ethane = [graph_of("CC")]
    assert set(AtomGraphs.from_graphs(ethane, 1).local_type.tolist()) == {1}
    assert set(AtomGraphs.from_graphs(ethane, 2).local_type.tolist()) == {1, 23}
    for order in (0, 11):
        with pytest.raises(GraphError, match="1 to 10 bonds"):
            AtomGraphs.from_graphs(ethane, order)


def test_padding_leaves_no_trace():
    mols = [graph_of(s) for s in ("CCO", "C#N", "c1ccccc1")]
    plain = AtomGraphs.from_batch(MolBatch.collate(mols))
    padded = AtomGraphs.from_batch(MolBatch.collate(mols, pad_atoms=20))
    for name in ("atom_type", "molecule", "local_index", "local_type"):
        assert torch.equal(getattr(plain, name), getattr(padded, name))


@pytest.mark.parametrize(
    ("molecule", "bonds", "types", "message"),
    [
        ([0, 0], [[0], [1]], [1], "each direction"),
        ([0, 0], [[0, 1, 0, 1], [1, 0, 1, 0]], [1] * 4, "each direction"),
        ([0, 1], [[0, 1], [1, 0]], [1, 1], "two molecules"),
        ([1, 0], [[0, 1], [1, 0]], [1, 1], "in order"),
        ([0, 0], [[0, 2], [2, 0]], [1, 1], "outside"),
        ([0, 0], [[0, 1], [1, 0]], [1, 23], "bond types"),
        ([0, 0], [[0, 1], [1, 0]], [1], "do not fit"),
    ],
)
def test_contradictory_bonds_are_refused(molecule, bonds, types, message):
    values = (torch.tensor(v) for v in ([6, 6], molecule, bonds, types))
    with pytest.raises(GraphError, match=message):
        AtomGraphs.from_bonds(*values)


# Network


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


def test_the_local_branch_alone_is_the_same():
    data = arrays("forward_aspirin")
    graphs, network = graphs_of(data), network_of("smooth", "cap")
    x = tensor(data, "pos_A")
    with torch.no_grad():
        both, alone = network(graphs, x), network(graphs, x, with_global=False)
    assert alone.of_global is None
    assert_close(alone.of_local, both.of_local, 1e-6)
    with pytest.raises(ValueError, match="not computed"):
        alone.global_field()


def test_full_size_state_dict_and_optimizers():
    public = json.loads((FIXTURES / "full_model_keys.json").read_text())
    network = DualEncoderEpsNetwork(DualEncoderConfig.from_original(public["model_config"]))
    expected = [
        (entry["key"], entry["shape"])
        for entry in public["keys"]
        if entry["alias_of"] is None and entry["key"] not in ("betas", "alphas")
    ]
    assert [(k, list(v.shape)) for k, v in network.state_dict().items()] == expected
    trainable = sum(p.numel() for p in network.parameters())
    assert trainable == public["n_trainable_parameters"] == 793_858

    name_of = {id(p): n for n, p in network.named_parameters()}
    parts = (
        ("edge_encoder_global", "encoder_global", "grad_global_dist_mlp"),
        ("edge_encoder_local", "encoder_local", "grad_local_dist_mlp"),
    )
    orders = public["optimizer_global_param_order"], public["optimizer_local_param_order"]
    for ours, modules, order in zip(network.optimizer_parameters(), parts, orders, strict=True):
        public_names = [f"{modules[int(n[0])]}{n[1:]}" for n in order]
        assert [name_of[id(p)] for p in ours] == public_names


def test_long_embedding_rows_are_shortened_once_and_only_there():
    weights = tensor(arrays("small_model_hard"), "encoder_global.embedding.weight")
    ours = network_of("hard", "cap").encoder_global.embedding.weight
    long = weights.norm(dim=-1) > 10
    assert long.nonzero().flatten().tolist() == [6, 8, 11]
    assert torch.equal(ours[~long], weights[~long])
    scale = 10 / (weights[long].norm(dim=-1, keepdim=True) + 1e-7)
    assert_close(ours[long], weights[long] * scale, 1e-6)


def test_the_unused_edge_encoder_changes_nothing():
    data = arrays("forward_ethanol")
    graphs, network = graphs_of(data), network_of("hard", "cap")
    x = tensor(data, "pos_A")
    with torch.no_grad():
        before = network(graphs, x)
        for parameter in network.edge_encoder_local.parameters():
            parameter.fill_(float("nan"))
        after = network(graphs, x)
    assert torch.equal(before.of_local, after.of_local)
    assert torch.equal(before.of_global, after.of_global)


def test_misuse_is_refused():
    graphs, network = graphs_of(arrays("forward_ethanol")), network_of("hard", "cap")
    with pytest.raises(ValueError, match="positions"):
        network(graphs, torch.zeros(8, 3))
    with pytest.raises(ValueError, match="below 100"):
        network(dataclasses.replace(graphs, atom_type=graphs.atom_type + 99), torch.zeros(9, 3))
    config = json.loads((FIXTURES / "small_model_hard.json").read_text())["model"]
    with pytest.raises(ValueError, match="schnet"):
        DualEncoderConfig.from_original({**config, "network": "schnet"})
    del config["smooth_conv"]
    with pytest.raises(ValueError, match="lacks smooth_conv"):
        DualEncoderConfig.from_original(config)


# Noise levels, loss and training


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


# Sampling


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


def test_sampling_stops_at_numbers_that_are_none():
    data = arrays("sample_end_ld_hard")
    with pytest.raises(FloatingPointError, match="step 1"):
        sample(
            network_of("hard", "cap"),
            graphs_of(data),
            tensor(data, "cap.pos_before_first"),
            tables_of("hard"),
            noise=lambda step: tensor(data, "noise")[0] / (step - 1),
            steps=[2, 1, 0],
        )
