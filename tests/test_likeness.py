"""Students that learn to denoise as a larger or guided teacher does."""

from __future__ import annotations

import pytest
import torch
from helpers import embedded, positions_of, taught

from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.cli import main
from rdgeodiff.diffusion.autoguidance import Guidance, guide_away
from rdgeodiff.geometry import center
from rdgeodiff.graph import MolBatch
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.distillation import LikenessPairing
from rdgeodiff.training.losses import loss_of

CPU = torch.device("cpu")


def noised(smiles, seed=0):
    mols = [embedded(s, 1) for s in smiles]
    graphs = MolBatch.collate([featurize(m) for m in mols])
    clean = torch.zeros(*graphs.mask.shape, 3)
    for row, mol in enumerate(mols):
        clean[row, : mol.GetNumAtoms()] = torch.from_numpy(positions_of(mol)[0]).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return graphs, clean, noise


def test_guidance_in_a_batch_of_many_levels_is_that_of_each_level_alone():
    x, n_atoms = torch.randn(3, 4, 3), torch.tensor([20, 30, 40])
    guidance = Guidance(2.0, 0.2, 3.0, 10, 30)
    guided = guide_away(lambda x, s: x, lambda x, s: x + 1.0, guidance, n_atoms)
    levels = (0.1, 1.0, 5.0)
    together = guided(x, torch.tensor(levels))
    for row, level in enumerate(levels):
        assert torch.equal(together[row], guided(x, torch.full((3,), level))[row])


def test_what_is_to_be_learnt_is_the_guided_teachers_prediction():
    """Of each molecule at its own level, guided where its sampler would be guided."""
    graphs, clean, noise = noised(["CCCCCCCC(=O)NCC", "OC1CCCCC1c1ccccc1", "CCCCCCCCCCO"])
    sigma = torch.tensor([0.3, 1.0, 3.0])
    config = TrainConfig({"a": 1.0}, teacher="base")
    x, target = LikenessPairing(config, bf16=False, device=CPU)(graphs, clean, noise, sigma)
    expected = center(clean, graphs.mask) + sigma.view(-1, 1, 1) * center(noise, graphs.mask)
    assert torch.allclose(x, expected)
    teacher = load_model("base")
    with torch.no_grad():
        for row, level in enumerate(sigma):
            alike = level.expand(3)
            guided = teacher.bind(graphs, "ddim")(x, alike)[row]
            plain = teacher.bind(graphs, "ddim", weight=0.0)(x, alike)[row]
            assert torch.allclose(target[row], guided, atol=1e-4)
            assert torch.allclose(guided, plain) == (level < 0.6)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    """`fast` has no guide, so that its network alone is all of it."""
    graphs, clean, noise = noised(["CCO", "C[C@H](O)F"])
    sigma = torch.tensor([0.4, 2.0])
    config = TrainConfig({"a": 1.0}, teacher="fast")
    x, target = LikenessPairing(config, bf16=False, device=CPU)(graphs, clean, noise, sigma)
    student = load_model("fast").network
    loss = loss_of(student, config, bf16=False)(graphs, x, target, sigma, None)
    assert float(loss.max()) < 1e-6
    assert float(loss_of(student, config, False)(graphs, x, clean, sigma, None).min()) > 1e-3


def test_taught_on_the_command_line_it_is_drawn_as_its_teacher_without_a_guide(tmp_path):
    log, path = taught(tmp_path, "--from fast --teacher base")
    assert {"0.3", "1", "3"} <= log[-1]["losses"].keys()
    student, teacher = load_model(path), load_model("base")
    assert student.info["training"]["teacher"] == "base"
    assert student.sampling == teacher.sampling
    assert student.guide is None


def test_one_teacher_is_enough(tmp_path, capsys):
    words = f"--from small --teacher base --distill 4 --data a.npz --out {tmp_path}"
    assert main(["train", *words.split()]) == 2
    assert "--teacher" in capsys.readouterr().err


def test_levels_without_a_teacher_are_refused():
    with pytest.raises(ValueError, match="no teacher"):
        TrainConfig({"a": 1.0}, levels=[2.0, 1.0])
