"""A run may begin with the weights of a model, and only with one that fits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from helpers import embedded, positions_of, tiny_network

from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.cli import main
from rdgeodiff.data.shards import Reference, ShardError, write_shard
from rdgeodiff.model_file import CheckpointError, save_model
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.loop import Trainer
from rdgeodiff.training.start import fine_tuning, shard_shares

SMILES = ("CCO", "CC=O", "CCN", "C[C@H](O)F")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained on other noise levels than the default ones."""
    stem = tmp_path_factory.mktemp("model") / "base"
    return save_model(stem, tiny_network(), {"training": {"log_mean": -0.2, "max_atoms": 50}})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two shards, of one and of three molecules, and another file."""
    folder = tmp_path_factory.mktemp("data")
    mols = [embedded(s, 2) for s in SMILES]
    references = [Reference(featurize(m), positions_of(m)) for m in mols]
    write_shard(folder / "a.npz", references[:1])
    write_shard(folder / "b.npz", references[1:])
    (folder / "conformers.npz").write_bytes(b"no shard")
    return folder


def trainer(config: TrainConfig, folder: Path) -> Trainer:
    return Trainer(config, folder, compiled=False, bf16=False)


def test_network_and_average_begin_as_the_model(model, data, tmp_path):
    config = fine_tuning(model, shard_shares([str(data)]), steps=3)
    started = trainer(config, tmp_path)
    for name, value in load_model(model).network.named_parameters():
        assert torch.equal(started.network.state_dict()[name], value)
        assert torch.equal(started.average[name], value)
    assert (config.log_mean, config.max_atoms) == (-0.2, 50)
    # Two copies: the average must not follow the network by being it.
    started.run(progress=False)
    assert any(
        not torch.equal(started.average[k], v) for k, v in started.network.named_parameters()
    )


def test_a_resumed_run_does_not_begin_again(model, data, tmp_path):
    moved = tmp_path / "moved.json"
    for ending in (".json", ".safetensors"):
        moved.with_suffix(ending).write_bytes(model.with_suffix(ending).read_bytes())
    config = fine_tuning(moved, shard_shares([str(data)]), steps=3)
    run = trainer(config, tmp_path / "run")
    run.run(progress=False)
    trained = {k: v.clone() for k, v in run.network.named_parameters()}
    moved.unlink()
    again = trainer(config, tmp_path / "run")
    assert again.step == 3
    assert all(torch.equal(v, trained[k]) for k, v in again.network.named_parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 3}, "layers is 2 there and 3 here"),
        ({"width": 8}, "width is 16 there and 8 here"),
        ({"vectors": 2}, "vectors is 0 there and 2 here"),
        ("objective", "objective is 'aligned' there and 'chain_rule' here"),
        ("architecture", "architecture is 'GraphFieldNetwork' there"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(change, words, model, data, tmp_path):
    config = fine_tuning(model, shard_shares([str(data)]))
    if isinstance(change, dict):
        config = dataclasses.replace(config, network=dataclasses.replace(config.network, **change))
    elif change == "objective":
        config = dataclasses.replace(config, objective="chain_rule")
    else:
        config = dataclasses.replace(config, architecture="DualEncoderEpsNetwork", network=None)
    with pytest.raises(ValueError, match=words):
        trainer(config, tmp_path)


def test_where_a_large_molecule_begins_may_differ(model, data, tmp_path):
    config = fine_tuning(model, shard_shares([str(data)]))
    sizes = dataclasses.replace(config.network, dense_limit=7)
    trainer(dataclasses.replace(config, network=sizes), tmp_path)


def test_shares_of_files_and_folders(data, tmp_path):
    shares = shard_shares([f"{data}=0.8", f"{data / 'a.npz'}=0.2"])
    assert shares == {
        str(data / "a.npz"): pytest.approx(0.4),
        str(data / "b.npz"): 0.6000000000000001,
    }
    odd = tmp_path / "x=y"
    odd.mkdir()
    (odd / "a.npz").write_bytes((data / "a.npz").read_bytes())
    assert shard_shares([str(odd)]) == {str(odd / "a.npz"): 1.0}
    with pytest.raises(ValueError, match="above 0"):
        shard_shares([f"{data}=0"])
    with pytest.raises(ShardError, match="holds no training shards"):
        shard_shares([str(tmp_path)])


def test_from_the_command_line_to_a_model(model, data, tmp_path, capsys):
    call = ["train", "--from", str(model), "--data", str(data), "--steps", "4", "--rate", "1e-3"]
    call += ["--out", str(tmp_path / "run"), "--no-compile", "--no-bf16", "--quiet"]
    assert main(call) == 0
    stored = TrainConfig.load(tmp_path / "run" / "config.json")
    assert (stored.steps, stored.decay, stored.learning_rate) == (4, 2, 1e-3)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "tuned")]) == 0
    info = json.loads((tmp_path / "tuned.json").read_text())
    assert info["training"]["start"] == "base.json"
    load_model(tmp_path / "tuned.json")

    assert main(["train", "--data", str(data), "--out", str(tmp_path / "x")]) == 2
    assert "--from and --data" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no model named"):
        fine_tuning("nothing", {"x": 1.0})


def test_a_fine_tuned_model_is_drawn_as_the_one_it_began_with(model, data, tmp_path, capsys):
    guided = tmp_path / "guided.json"
    info = json.loads(model.read_text())
    guide = {"model": "base", "sha256": info["sha256"], "weight": 2.0}
    info |= {"guide": guide, "sampling": {"sampler": "heun", "steps": 5}}
    guided.write_text(json.dumps(info))
    guided.with_suffix(".safetensors").write_bytes(model.with_suffix(".safetensors").read_bytes())
    for ending in (".json", ".safetensors"):
        (tmp_path / f"base{ending}").write_bytes(model.with_suffix(ending).read_bytes())
    config = fine_tuning(guided, shard_shares([str(data)]), steps=1)
    trainer(config, tmp_path / "run").run(progress=False)
    export = ["export", str(tmp_path / "run"), str(tmp_path / "tuned")]
    assert main(export) == 0
    tuned = load_model(tmp_path / "tuned.json")
    assert (tuned.sampling.sampler, tuned.sampling.steps) == ("heun", 5)
    assert tuned.guide is not None and tuned.guide[1].weight == 2.0
    assert capsys.readouterr().err == ""

    guided.unlink()
    assert main(export) == 0
    assert load_model(tmp_path / "tuned.json").guide is None
    assert "no guide" in capsys.readouterr().err


def test_a_configuration_keeps_what_the_model_does_not_say(model, data, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"shards": {str(data / "a.npz"): 1.0}, "ema": 0.9, "steps": 2}))
    call = ["train", "--from", str(model), "--config", str(file), "--out", str(tmp_path / "run")]
    assert main([*call, "--no-compile", "--no-bf16", "--quiet"]) == 0
    stored = TrainConfig.load(tmp_path / "run" / "config.json")
    assert stored.ema == 0.9 and stored.network == load_model(model).network.config
