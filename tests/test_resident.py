"""What lies on a device as a whole gives the same batches, and its optimizer the same steps."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import graph_of, tiny_network

from rdgeodiff.checkpoint import load_model
from rdgeodiff.cli import main
from rdgeodiff.data.shards import Reference, read_shard, write_shard
from rdgeodiff.model_file import save_model
from rdgeodiff.training.batches import Mixture
from rdgeodiff.training.muon import StackedMuon
from rdgeodiff.training.resident import ResidentMixture

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "train_device.py"


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


def test_a_run_by_the_clock_grows_a_model_and_can_be_exported(shards, tmp_path, monkeypatch):
    small = save_model(tmp_path / "small", tiny_network(), {})
    network = {"width": 20, "node_width": 24, "layers": 3, "radial": 12}
    paths = {str(tmp_path / f"{k}.npz"): 1.0 for k in range(2)}
    config = {"shards": paths, "validation": list(paths), "pair_budget": 3000, "network": network}
    (tmp_path / "config.json").write_text(json.dumps(config))
    call = ["--config", str(tmp_path / "config.json"), "--out", str(tmp_path / "run")]
    call += ["--grow", str(small), "--seconds", "5", "--device", "cpu", "--check", "1"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *call])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "grown")]) == 0
    grown = load_model(tmp_path / "grown.json")
    assert len(grown.network.layers) == 3
    log = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert grown.info["training"]["samples"] == log[-3]["samples"] > 0
    assert log[-1]["step"] == grown.info["training"]["step"]


def test_a_molecule_without_conformers_is_left_out(tmp_path):
    graph = graph_of("CCF")
    empty = [Reference(graph, np.zeros((0, graph.n_atoms, 3)))]
    full = [Reference(graph, np.ones((1, graph.n_atoms, 3)))]
    write_shard(tmp_path / "some.npz", [*empty, *full])
    mixture = Mixture([read_shard(tmp_path / "some.npz")], [1.0], pair_budget=3000)
    assert mixture.left_out == 1
    assert len(mixture.batch(0).graphs) > 0
