"""A grown network computes what the smaller one did, and can learn what that could not."""

from __future__ import annotations

import pytest
import torch
from helpers import batch_of, largest_difference, noisy, tiny_network

from rdgeodiff.diffusion.denoiser import denoise
from rdgeodiff.nn.graph_field import GraphFieldConfig, GraphFieldNetwork
from rdgeodiff.training.growth import grow

SMALL = {"width": 16, "node_width": 24, "layers": 2, "radial": 12}


def _weights(network):
    return dict(network.named_parameters())


@pytest.mark.parametrize(
    "more",
    [{"layers": 3}, {"vectors": 4}, {"width": 20}, {"layers": 4, "vectors": 3, "width": 32}],
    ids=str,
)
def test_growing_changes_nothing_and_opens_new_ways(more):
    small = tiny_network()
    large = GraphFieldNetwork(GraphFieldConfig(**{**SMALL, **more}))
    grow(large, _weights(small))
    batch = batch_of("C[C@H](O)C(F)Cl", "CCO")
    x, levels = noisy(batch), torch.tensor([0.3, 2.0])
    expected = denoise(small, batch, x, levels)
    with torch.no_grad():
        grown = denoise(large, batch, x, levels)
    assert largest_difference(grown, expected) < 1e-5

    # One step of descent has to move what is new, or the growth would be dead weight.
    old = {k: v.detach().clone() for k, v in large.named_parameters()}
    optimizer = torch.optim.SGD(large.parameters(), lr=0.1)
    for _ in range(2):  # zeros open first what lies behind them
        optimizer.zero_grad()
        denoise(large, batch, x, levels).square().sum().backward()
        optimizer.step()
    names = [
        k for k in old if k not in _weights(small) or old[k].shape != small.state_dict()[k].shape
    ]
    assert names
    assert any(largest_difference(large.state_dict()[k], old[k]) > 0 for k in names)


def test_vectors_grow_beside_vectors_and_a_wider_state_stays_close():
    small = tiny_network(vectors=3)
    batch = batch_of("C[C@H](O)C(F)Cl", "CCO")
    x, levels = noisy(batch), torch.tensor([0.3, 2.0])
    expected = denoise(small, batch, x, levels)
    for more, tolerance in (({"vectors": 5, "width": 20}, 1e-5), ({"node_width": 48}, 0.1)):
        large = GraphFieldNetwork(GraphFieldConfig(**{**SMALL, "vectors": 3, **more}))
        with torch.no_grad():
            fresh = largest_difference(denoise(large, batch, x, levels), expected)
            grow(large, _weights(small))
            grown = largest_difference(denoise(large, batch, x, levels), expected)
        assert grown < tolerance * max(fresh, 1.0), more


def test_what_does_not_fit_is_named():
    small, large = tiny_network(layers=3), tiny_network(layers=2)
    with pytest.raises(ValueError, match=r"pair\.weight: .* does not fit|no layers\.2"):
        grow(large, _weights(small))
    with pytest.raises(ValueError, match="embed"):
        grow(tiny_network(), _weights(tiny_network(node_width=32)))
