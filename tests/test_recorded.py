"""Recorded steps are those of the plain loop."""

from __future__ import annotations

import pytest
import torch
from helpers import batch_of, noisy, tiny_network

from rdgeodiff.diffusion.objectives import field_error
from rdgeodiff.training.recorded import NoisyBatch, RecordedSteps

CLIP, EMA = 0.5, 0.9


def _batches():
    """Two of one size, one of another."""
    for seed, smiles in enumerate(
        [("C[C@H](O)F", "CCO"), ("C[C@@H](O)F", "CC=O"), ("F[C@H](Cl)Br", "CO", "O")]
    ):
        graphs = batch_of(*smiles)
        x = noisy(graphs, seed=seed)
        sigma = torch.full((len(graphs),), 0.7)
        yield NoisyBatch(graphs, x, 0.8 * x, sigma, torch.zeros(len(graphs), dtype=torch.long))


def _parts():
    network = tiny_network().requires_grad_(True)
    hidden = list(network.layers.parameters())
    known = {id(p) for p in hidden}
    others = [p for p in network.parameters() if id(p) not in known]
    optimizers = [
        torch.optim.AdamW(hidden, lr=0.01, foreach=True),
        torch.optim.SGD(others, lr=0.3, momentum=0.9, weight_decay=0.01),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]

    def loss(p):
        def field(*inputs):
            return network(*inputs)

        return field_error(field, p.graphs, p.noisy, p.clean, p.sigma).mean()

    return network, optimizers, loss


@pytest.mark.parametrize("recorded", [0, 1, 3])
def test_steps_are_those_of_the_plain_loop(recorded):
    network, optimizers, loss = _parts()
    averages = [p.detach().clone() for p in network.parameters()]
    rates = [1.0, 0.5, 0.25, 0.0, 1.0]
    batches = [*_batches(), *_batches()][: len(rates)]
    expected = []
    for batch, rate in zip(batches, rates, strict=True):
        for optimizer in optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = rate * group["peak"]
        value = loss(batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(list(network.parameters()), CLIP)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, list(network.parameters()), 1.0 - EMA)
        expected.append(value.item())

    other, optimizers, loss = _parts()
    begun = [p.detach().clone() for p in other.parameters()]
    ours = [p.detach().clone() for p in begun]
    learnt = list(other.parameters())
    steps = RecordedSteps(loss, learnt, optimizers, ours, learnt, clip=CLIP, ema=EMA)
    for batch in batches[:recorded]:
        steps.record(batch)
    assert len(steps.sizes) == min(recorded, len({p.noisy.shape for p in batches[:recorded]}))
    for a, b in zip(learnt, begun, strict=True):
        assert torch.equal(a, b)  # recording moves nothing
    values = [steps(p, r).item() for p, r in zip(batches, rates, strict=True)]
    assert values == pytest.approx(expected, rel=1e-4)
    for a, b in zip(other.parameters(), network.parameters(), strict=True):
        assert torch.allclose(a, b, atol=5e-4)
    for a, b in zip(ours, averages, strict=True):
        assert torch.allclose(a, b, atol=5e-4)


def test_optimizers_begin_anew_in_place():
    network, optimizers, loss = _parts()
    learnt = list(network.parameters())
    averages = [p.detach().clone() for p in learnt]
    steps = RecordedSteps(loss, learnt, optimizers, averages, learnt, clip=CLIP, ema=EMA)
    steps(next(_batches()), 1.0)
    state = [v for o in optimizers for s in o.state.values() for v in s.values()]
    assert any(v.abs().sum() > 0 for v in state)
    steps.forget()
    again = [v for o in optimizers for s in o.state.values() for v in s.values()]
    assert all(a is b for a, b in zip(state, again, strict=True))
    assert all(v.abs().sum() == 0 for v in again)
