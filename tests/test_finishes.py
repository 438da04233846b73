"""A model of heavy atoms names the one that finishes it; calls, training and pictures obey it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import (
    embedded,
    mol_from,
    positions_of,
    specified_stereo,
    taught,
    tiny_network,
    written_stereo,
)

from rdgeodiff import EmbedMoleculeDiffusion, EmbedMoleculesDiffusion, RefineConformersDiffusion
from rdgeodiff.checkpoint import load_model
from rdgeodiff.model_file import CheckpointError, save_model
from rdgeodiff.pictures.animation import diffusion_trajectory
from rdgeodiff.pipeline import Pipeline


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
