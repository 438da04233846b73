"""Heavy atoms from one network, all atoms from another: still one sample for each request."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from helpers import (
    embedded,
    graph_of,
    mol_from,
    positions_of,
    specified_stereo,
    taught,
    tiny_network,
    written_stereo,
)

from rdgeodiff import EmbedMoleculeDiffusion, EmbedMoleculesDiffusion, RefineConformersDiffusion
from rdgeodiff.architectures import FieldProcess
from rdgeodiff.checkpoint import load_model
from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.geometry import HeldAtoms, align
from rdgeodiff.graph import MolBatch
from rdgeodiff.heavy_first import HeavyFirst
from rdgeodiff.model_file import CheckpointError, Model, save_model
from rdgeodiff.pictures.animation import diffusion_trajectory
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.results import FailureCause
from rdgeodiff.samples import SampleRequest
from rdgeodiff.sampling import Sampling
from rdgeodiff.skeleton import skeleton

SMILES = ("C[C@H](O)[C@@H](F)Cl", "O", "CCO", "c1ccccc1O", "CC(=O)Nc1ccccc1", "FC(F)(F)F")
GRAPHS = [graph_of(s) for s in SMILES]
LEVELS = (0.5, 0.1)


class Recorded(FieldProcess):
    """A process that notes the atoms of each batch, and spoils what `spoil` names."""

    def __init__(self, spoil: int = -1) -> None:
        super().__init__()
        object.__setattr__(self, "seen", [])
        object.__setattr__(self, "spoil", spoil)

    def bind(self, network, graphs: MolBatch, sampler: str, bf16: bool = False) -> Denoiser:
        inner = super().bind(network, graphs, sampler, bf16)
        self.seen.append(graphs.n_atoms.tolist())

        def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            found = inner(x, sigma)
            found[graphs.n_atoms == self.spoil] = torch.nan
            return found

        return denoise


def staged(batch_pairs: int = 0, spoil: int = -1, spoil_heavy: int = -1) -> HeavyFirst:
    heavy = Model("heavy", tiny_network(1), Sampling(steps=5), {}, Recorded(spoil_heavy))
    whole = Model("whole", tiny_network(2), Sampling(steps=5), {}, Recorded(spoil))
    first, last = (Pipeline(m, "cpu", batch_pairs, precision="float32") for m in (heavy, whole))
    return HeavyFirst(first, last.on_levels(LEVELS), last)


def seen(source: HeavyFirst, name: str) -> list[int]:
    return sorted(n for batch in getattr(source, name)._model.process.seen for n in batch)


def requests(count: int = 2, **more) -> list[SampleRequest]:
    return [
        SampleRequest(graph, row, conformer, 0, 11, **more)
        for row, graph in enumerate(GRAPHS)
        for conformer in range(count)
    ]


def drawn(source, asked, **how):
    found = {}

    def keep(request, result):
        assert any(request is one for one in asked), "not a request that was made"
        assert (request.row, request.conformer) not in found, "reported twice"
        found[request.row, request.conformer] = result

    source.sample(asked, on_result=keep, **how)
    assert len(found) == len(asked), "a request was lost"
    return found


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(np.abs(a[k] - b[k]).max() < 1e-4 for k in a)


@pytest.mark.parametrize("guided", [False, True])
def test_packing_and_order_make_no_difference(guided, monkeypatch):
    asked = requests()
    plain = drawn(staged(), asked, guided=guided)
    assert same(plain, drawn(staged(batch_pairs=1), asked, guided=guided))
    assert same(plain, drawn(staged(batch_pairs=400), asked[::-1], guided=guided))
    alone = drawn(staged(), [r for r in asked if r.row == 4 and r.conformer == 1], guided=guided)
    assert same(alone, {k: plain[k] for k in alone})
    monkeypatch.setattr("rdgeodiff.heavy_first.PART", 0)  # a part for each request
    assert same(plain, drawn(staged(), asked, guided=guided))


def test_hydrogens_are_drawn_at_the_last_levels_only():
    source = staged()
    drawn(source, requests(1))
    sizes = [len(skeleton(g).atoms) if skeleton(g) else None for g in GRAPHS]
    assert sizes == [6, None, None, 7, 10, None]
    assert seen(source, "_heavy") == sorted(n for n in sizes if n)
    assert seen(source, "_last") == sorted(g.n_atoms for g in GRAPHS)  # and the three others' own


def test_conformers_of_a_molecule_differ_and_other_seeds_give_others():
    asked = requests()
    found = drawn(staged(), asked)
    assert np.abs(found[3, 0] - found[3, 1]).max() > 0.1
    other = [SampleRequest(r.graph, r.row, r.conformer, 0, 12) for r in asked]
    assert np.abs(drawn(staged(), other)[3, 0] - found[3, 0]).max() > 0.1


def test_the_second_stage_has_noise_of_its_own():
    """Were it the noise of the first, a skeleton would be pushed where it came from."""
    first, second = [], []

    class Noted(Pipeline):
        def sample(self, requests, **how):
            (first if self._model.name == "heavy" else second).extend(requests)
            super().sample(requests, **how)

    source = staged()
    for name in ("_heavy", "_last"):
        getattr(source, name).__class__ = Noted
    drawn(source, requests(1)[3:5])
    assert {r.seed for r in first} == {11} and 11 not in {r.seed for r in second}
    assert all(r.start is not None for r in second)


def test_exact_denoisers_land_on_their_targets():
    """Heavy atoms arrive where the first network leads, hydrogens where the second does."""
    mol = embedded("CC(=O)Nc1ccccc1")
    target = torch.from_numpy(positions_of(mol)[0]).float()
    own = skeleton(GRAPHS[4])

    class Exact(FieldProcess):
        def __init__(self, goal):
            super().__init__()
            object.__setattr__(self, "goal", goal - goal.mean(0))

        def bind(self, network, graphs, sampler, bf16=False):
            goal = self.goal.expand(len(graphs), -1, -1)
            return lambda x, sigma: align(goal, x)

    heavy, whole = (
        Pipeline(
            Model("exact", tiny_network(), Sampling("ddim", steps=6), {}, Exact(goal)),
            precision="float32",
        )
        for goal in (target[own.atoms], target)
    )
    source = HeavyFirst(heavy, whole.on_levels(LEVELS), whole)
    for sample in drawn(source, [r for r in requests(3) if r.row == 4]).values():
        x = torch.from_numpy(sample).float().unsqueeze(0)
        wanted = (target - target.mean(0)).unsqueeze(0)
        assert (align(x - x.mean(1), wanted) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("stage", ["spoil", "spoil_heavy"])
def test_what_fails_in_either_stage_is_reported_and_harms_nobody(stage):
    asked = requests()
    plain = drawn(staged(), asked)
    bad = GRAPHS[3].n_atoms if stage == "spoil" else len(skeleton(GRAPHS[3]).atoms)
    found = drawn(staged(**{stage: bad}), asked)
    for key, result in found.items():
        if key[0] == 3:
            assert result is FailureCause.NONFINITE
        else:
            assert np.abs(result - plain[key]).max() < 1e-4


def test_when_the_time_is_up_everything_is_reported():
    found = drawn(staged(), requests(), deadline=time.monotonic() - 1)
    assert set(found.values()) == {FailureCause.EXCEEDED_TIMEOUT}


def test_atoms_with_places_and_starts_are_drawn_whole():
    held = HeldAtoms(np.array([0, 1, 2]), np.eye(3))
    start = np.random.default_rng(0).standard_normal((GRAPHS[3].n_atoms, 3))
    asked = [
        SampleRequest(GRAPHS[3], 3, 0, 0, 11, held=held),
        SampleRequest(GRAPHS[3], 3, 1, 0, 11, start=start),
    ]
    source = staged()
    found = drawn(source, asked)
    assert seen(source, "_heavy") == []
    assert same(found, drawn(source._whole, asked))
    assert source.starting_at(0.3).sigmas == source._whole.starting_at(0.3).sigmas


def two_models(folder, **changes):
    """A tiny model of heavy atoms, which one of all atoms finishes."""
    sampling = {"sampler": "ddim", "steps": 4}
    whole = save_model(folder / "whole", tiny_network(2), {"sampling": sampling})
    sealed = json.loads(whole.read_text())["sha256"]
    entry = {"model": "whole", "sha256": sealed, "levels": [0.5, 0.1], **changes}
    info = {"heavy_atoms": True, "sampling": sampling, "finish": entry}
    return save_model(folder / "heavy", tiny_network(1), info)


def test_the_model_that_finishes_is_read_too(tmp_path):
    model = load_model(two_models(tmp_path))
    whole, levels = model.finish
    assert model.heavy_atoms and not whole.heavy_atoms
    assert whole.name == "whole" and levels == (0.5, 0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "../whole"},
        {"model": "other"},
        {"model": "heavy"},
        {"sha256": "0" * 64},
        {"levels": []},
        {"levels": [0.1, 0.5]},
        {"levels": [0.5, 0.0]},
        {"levels": ["high"]},
        {"levels": 0.5},
        {"levels": [float("nan")]},
        {"weight": 1.0},
    ],
)
def test_a_finish_that_does_not_fit_is_refused(tmp_path, change):
    with pytest.raises(CheckpointError):
        load_model(two_models(tmp_path, **change))


def test_only_heavy_atoms_need_a_finish_and_it_is_one_of_all_atoms(tmp_path):
    path = two_models(tmp_path)
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "heavy_atoms": False}))
    with pytest.raises(CheckpointError, match="all atoms"):
        load_model(path)
    alone = save_model(tmp_path / "alone", tiny_network(1), {"heavy_atoms": True})
    info["finish"] |= {"model": "alone", "sha256": json.loads(alone.read_text())["sha256"]}
    path.write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match="heavy atoms alone"):
        load_model(path)
    with pytest.raises(ValueError, match="'alone' knows heavy atoms alone"):
        EmbedMoleculeDiffusion(mol_from("CCCC"), 1, model=str(alone))


def test_settings_of_a_call_are_those_of_the_heavy_atoms(tmp_path, monkeypatch):
    calls = []
    sample = Pipeline.sample

    def noted(self, requests, **how):
        calls.append((self._model.name, len(self.sigmas) - 1, len(requests)))
        return sample(self, requests, **how)

    monkeypatch.setattr(Pipeline, "sample", noted)
    how = {"model": str(two_models(tmp_path)), "randomSeed": 3, "maxIterations": 1}
    mol = mol_from("CC(=O)Nc1ccccc1")
    EmbedMoleculeDiffusion(mol, 2, **how)
    assert calls == [("heavy", 4, 2), ("whole", 2, 2)]
    calls.clear()
    EmbedMoleculeDiffusion(mol, 2, steps=7, **how)
    assert calls == [("heavy", 7, 2), ("whole", 2, 2)]
    calls.clear()
    EmbedMoleculeDiffusion(mol_from("CCO"), 2, **how)
    assert calls == [("whole", 4, 2)]
    calls.clear()
    RefineConformersDiffusion(embedded("CC(=O)Nc1ccccc1"), 0.3, **how)
    assert [name for name, _, _ in calls] == ["whole"]


def finished_by_another(folder):
    """A tiny model of heavy atoms, finished by one that knows the last of the noise alone."""
    heavy = two_models(folder)
    info = json.loads(heavy.read_text())
    whole = {k: info["finish"][k] for k in ("model", "sha256")}
    last = save_model(folder / "last", tiny_network(3), {"whole": whole})
    sealed = json.loads(last.read_text())["sha256"]
    info["finish"] = {"model": "last", "sha256": sealed, "levels": [0.5]}
    heavy.write_text(json.dumps(info))
    return heavy, last


def test_what_only_finishes_draws_nothing_from_pure_noise(tmp_path, monkeypatch):
    calls = []
    sample = Pipeline.sample

    def noted(self, requests, **how):
        calls.append((self._model.name, len(self.sigmas) - 1))
        return sample(self, requests, **how)

    monkeypatch.setattr(Pipeline, "sample", noted)
    heavy, last = finished_by_another(tmp_path)
    how = {"model": str(heavy), "randomSeed": 3, "maxIterations": 1}
    EmbedMoleculeDiffusion(mol_from("CC(=O)Nc1ccccc1"), 2, **how)
    assert calls == [("heavy", 4), ("last", 1)]
    calls.clear()
    EmbedMoleculeDiffusion(mol_from("CCO"), 2, **how)
    RefineConformersDiffusion(embedded("CC(=O)Nc1ccccc1"), 0.3, **how)
    assert {name for name, _ in calls} == {"whole"}
    with pytest.raises(ValueError, match="'last' only finishes .* take 'whole'"):
        EmbedMoleculeDiffusion(mol_from("CCCC"), 1, model=str(last))
    for path in (heavy, last):
        with pytest.raises(ValueError, match="take 'whole'"):
            diffusion_trajectory(mol_from("CCCC"), load_model(path), 1)


@pytest.mark.parametrize(
    "change", [{"model": "heavy"}, {"model": "last"}, {"sha256": "0" * 64}, {"levels": [0.5]}]
)
def test_the_whole_of_a_finish_knows_all_noise_and_all_atoms(tmp_path, change):
    heavy, last = finished_by_another(tmp_path)
    info = json.loads(last.read_text())
    info["whole"] |= change
    if change.get("model") in ("heavy", "last"):
        info["whole"]["sha256"] = json.loads((tmp_path / f"{change['model']}.json").read_text())[
            "sha256"
        ]
    last.write_text(json.dumps(info))
    for path in (heavy, last):
        with pytest.raises(CheckpointError):
            load_model(path)


@pytest.mark.parametrize("name", ["swift", "dash"])
def test_heavy_first_keeps_stereo_and_does_not_mind_the_batch(name):
    smiles = "C[C@H](O)[C@@H](N)C(=O)N1CCC[C@H]1C(=O)O"
    mol = mol_from(smiles)
    assert len(EmbedMoleculeDiffusion(mol, 4, randomSeed=5, model=name)) == 4
    assert {specified_stereo(mol, k) for k in range(4)} == {written_stereo(mol)}
    alike = [mol_from(smiles), mol_from("CCOCC")]
    results = EmbedMoleculesDiffusion(alike, 4, randomSeed=5, model=name)
    assert [len(r.conf_ids) for r in results] == [4, 4]
    # Row 0 of one call is row 0 of the other; batches differ.
    assert np.abs(positions_of(mol) - positions_of(alike[0])).max() < 1e-3


def test_what_shows_all_atoms_names_the_model_that_draws_them(tmp_path):
    model = load_model(two_models(tmp_path))
    with pytest.raises(ValueError, match="take 'whole'"):
        diffusion_trajectory(mol_from("CCCC"), model, 1)


@pytest.mark.parametrize("words", ["", "--teacher small", "--teacher HEAVY"])
def test_training_without_hydrogens_makes_a_model_that_says_so(tmp_path, words):
    """By itself, taught by a model of all atoms, and by one of heavy atoms."""
    two_models(tmp_path)
    config = tmp_path / "config.json"
    shard = tmp_path / "a.npz"
    network = {"width": 16, "node_width": 24, "layers": 2, "radial": 12}
    config.write_text(
        json.dumps({"shards": {str(shard): 1.0}, "network": network, "heavy_atoms": True})
    )
    words = words.replace("HEAVY", str(tmp_path / "heavy.json"))
    log, model = taught(tmp_path, f"--config {config} {words}")
    info = json.loads(model.read_text())
    assert info["heavy_atoms"] and info["training"]["heavy_atoms"]
    assert load_model(model).heavy_atoms
    losses = [line["losses"] for line in log if "losses" in line]
    assert losses and all(np.isfinite(v) for v in losses[-1].values())
