"""The original network's parameters and branches: which there are, what each does, and misuse."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from original_fixtures import (
    FIXTURES,
    arrays,
    assert_close,
    graphs_of,
    network_of,
    tables_of,
    tensor,
)

from rdgeodiff.diffusion.original_geodiff import sample
from rdgeodiff.nn.dual_encoder import DualEncoderConfig, DualEncoderEpsNetwork

pytestmark = pytest.mark.usefixtures("one_thread")


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
