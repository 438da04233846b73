"""What lies on a device as a whole gives the same batches, and its optimizer the same steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import graph_of

from rdgeodiff.data.shards import Reference, read_shard, write_shard
from rdgeodiff.training.batches import Mixture
from rdgeodiff.training.muon import StackedMuon
from rdgeodiff.training.resident import ResidentMixture


@pytest.fixture
def shards(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for k, smiles in enumerate([("C[C@H](O)F", "CCO", "O"), ("c1ccccc1", "CC(C)C", "CCCCCCO")]):
        references = []
        for one in smiles:
            graph = graph_of(one)
            positions = rng.normal(size=(3, graph.n_atoms, 3))
            energies = np.array([0.0, 1.0, 50.0]) if k else None
            references.append(Reference(graph, positions, energies))
        write_shard(tmp_path / f"{k}.npz", references)
        found.append(read_shard(tmp_path / f"{k}.npz"))
    return found


def _tensors(batch):
    return [*vars(batch.graphs).values(), batch.clean, batch.noise, batch.sigma, batch.shard]


def test_a_resident_mixture_draws_the_same_batches(shards):
    settings = {"pair_budget": 3000, "seed": 4, "floors": [0.0, 0.8], "temperatures": [0.0, 2.0]}
    plain = Mixture(shards, [1.0, 2.0], **settings)
    resident = ResidentMixture(shards, [1.0, 2.0], device=torch.device("cpu"), **settings)
    for step in range(12):
        ours, theirs = plain.batch(step), resident.batch(step)
        for a, b in zip(_tensors(ours), _tensors(theirs), strict=True):
            assert torch.equal(a, b), step


def test_conformers_follow_their_energies(shards):
    mixture = Mixture(shards, [1.0, 1e6], pair_budget=3000, temperatures=[0.0, 1.0])
    seen = dict.fromkeys(range(3), 0)
    for step in range(60):
        batch = mixture.batch(step)
        for row in range(len(batch.graphs)):
            if int(batch.shard[row]) != 1:
                continue
            own = batch.clean[row, : int(batch.graphs.n_atoms[row])].numpy()
            for molecule in range(3):
                if len(own) == int(shards[1].n_atoms[molecule]):
                    for k in range(3):
                        seen[k] += np.allclose(own, shards[1].conformer(molecule, k))
    total = sum(seen.values())
    assert total > 400
    assert seen[2] == 0
    assert abs(seen[0] / total - 1 / (1 + np.exp(-1.0))) < 0.06


def test_stacked_muon_steps_as_torch_does():
    torch.manual_seed(0)
    shapes = [(20, 30), (30, 20), (20, 30), (16, 16)]
    ours = [torch.nn.Parameter(torch.randn(s)) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    mine = StackedMuon(ours, lr=0.01, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
