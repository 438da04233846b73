"""The command line from an archive to a model: featurize, train, export, evaluate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import embedded, positions_of, tiny_network

from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.cli import main
from rdgeodiff.data.shards import Reference, read_shard, write_shard
from rdgeodiff.model_file import save_model
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.loop import Trainer

QM9 = Path(__file__).parent.parent / "benchmarks" / "data" / "val_qm9.npz"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The two smallest ensembles of the validation set, cut to three conformers each."""
    with np.load(QM9) as stored:
        full = {k: stored[k] for k in stored.files}
    starts = np.concatenate([[0], np.cumsum(full["n_atoms"].astype(int) * full["n_confs"])])
    chosen = [k for k in np.argsort(full["n_atoms"], kind="stable") if full["n_confs"][k] >= 3][:2]
    rows = [np.arange(starts[k], starts[k] + 3 * int(full["n_atoms"][k])) for k in chosen]
    path = tmp_path / "some.npz"
    np.savez(
        path,
        smiles=full["smiles"][chosen],
        n_atoms=full["n_atoms"][chosen],
        n_confs=np.full(2, 3, np.int16),
        coords=full["coords"][np.concatenate(rows)],
    )
    return path


def test_evaluate_writes_json_and_prints_a_table(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    call = ["evaluate", str(archive), "--methods", "etkdg", "--out", str(out), "--quiet"]
    assert main(call) == 0
    assert "| ETKDGv3 |" in capsys.readouterr().out
    data = json.loads(out.read_text())
    assert data["archives"][0]["methods"]["etkdg"]["summary"]["delivered"] == 12


def test_evaluate_runs_a_model(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = save_model(tmp_path / "tiny", tiny_network(), {})
    call = ["evaluate", str(archive), "--methods", "diffusion", "--molecules", "1", "--steps", "2"]
    assert main([*call, "--model", str(written), "--device", "cpu", "--quiet"]) == 0
    # Random weights make nothing acceptable; that must show, not fail.
    assert "| rdgeodiff | 0.0/0.0" in capsys.readouterr().out


def test_dataset_train_and_export(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = tmp_path / "shard.npz"
    assert main(["dataset", "featurize", str(archive), str(shard), "--quiet"]) == 0
    assert read_shard(shard).n_confs.tolist() == [3, 3]
    assert main(["dataset", "info", str(shard)]) == 0
    assert "2 molecules, 6 conformers" in capsys.readouterr().out

    network = {"width": 16, "node_width": 24, "layers": 1, "radial": 8}
    config = {"shards": {str(shard): 1.0}, "steps": 2, "pair_budget": 2000, "network": network}
    path, run = tmp_path / "config.json", tmp_path / "run"
    path.write_text(json.dumps(config))
    call = ["train", "--config", str(path), "--out", str(run), "--no-compile", "--no-bf16"]
    assert main([*call, "--device", "cpu", "--quiet"]) == 0
    assert "step 2" in capsys.readouterr().out
    assert main(["export", str(run), str(tmp_path / "model")]) == 0
    model = load_model(tmp_path / "model.json")
    assert model.info["training"]["step"] == 2
    assert model.info["training"]["shards"] == {"shard.npz": 1.0}
    trainer = Trainer(TrainConfig.load(path), run, compiled=False, bf16=False)
    for name, value in model.network.named_parameters():
        assert value.equal(trainer.average[name]), name

    assert main(["export", str(run), str(tmp_path / "half"), "--half"]) == 0
    half = load_model(tmp_path / "half.json")
    whole, halved = ((tmp_path / f"{m}.safetensors").stat().st_size for m in ("model", "half"))
    assert halved < 0.6 * whole
    for name, value in half.network.named_parameters():
        assert value.equal(trainer.average[name].half().float()), name


def test_training_computes_in_bfloat16_where_the_device_does(tmp_path, monkeypatch) -> None:
    seen = []

    def loss_of(network, config, bf16):
        seen.append(bf16)
        raise ValueError("seen")

    monkeypatch.setattr("rdgeodiff.training.loop.loss_of", loss_of)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"shards": {"shard.npz": 1.0}}))
    call = ["train", "--config", str(config), "--out", str(tmp_path), "--device", "cpu"]
    for able in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"avx512_bf16": able})
        for options in ([], ["--no-bf16"]):
            assert main([*call, *options, "--quiet"]) == 2
    assert seen == [True, False, False, False]


def test_export_of_several_runs_is_their_mean(tmp_path: Path) -> None:
    mols = [embedded("CCO", 2)]
    shard = tmp_path / "shard.npz"
    write_shard(shard, [Reference(featurize(m), positions_of(m)) for m in mols])
    network = {"width": 16, "node_width": 24, "layers": 1, "radial": 8}
    config = {"shards": {str(shard): 1.0}, "steps": 2, "pair_budget": 2000, "network": network}
    path = tmp_path / "config.json"
    runs = [tmp_path / "one", tmp_path / "two"]
    for seed, run in enumerate(runs):
        path.write_text(json.dumps({**config, "seed": seed}))
        call = ["train", "--config", str(path), "--out", str(run), "--no-compile", "--no-bf16"]
        assert main([*call, "--quiet"]) == 0
    assert main(["export", *map(str, runs), str(tmp_path / "model")]) == 0
    model = load_model(tmp_path / "model.json")
    one, two = (
        Trainer(TrainConfig.load(run / "config.json"), run, compiled=False, bf16=False)
        for run in runs
    )
    for name, value in model.network.named_parameters():
        mean = (one.average[name] + two.average[name]) / 2
        assert torch.allclose(value, mean, atol=1e-7), name
    assert not all(torch.equal(one.average[name], two.average[name]) for name in one.average)
    assert [run["seed"] for run in model.info["training"]["mean_of"]] == [0, 1]

    other = json.loads((runs[1] / "config.json").read_text())
    (runs[1] / "config.json").write_text(json.dumps({**other, "objective": "chain_rule"}))
    assert main(["export", *map(str, runs), str(tmp_path / "bad")]) == 2
    assert not (tmp_path / "bad.json").exists()


def test_training_commands_need_no_rdkit(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['rdkit'] = None; from rdgeodiff.cli import main; "
        "assert main(['info']) == 0; "
        f"sys.exit(main(['train', '--config', {str(tmp_path / 'no.json')!r}, '--out', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no.json" in done.stderr, done.stderr
    assert "rdkit is not installed" in done.stdout
