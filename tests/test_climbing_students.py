"""Students of models that climb: what they are taught, and that they are drawn as they were."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import embedded, gaussian, graph_of, positions_of, taught, tiny_network

from rdgeodiff import EmbedMoleculesDiffusion
from rdgeodiff.architectures import FieldProcess
from rdgeodiff.checkpoint import load_model
from rdgeodiff.cli import main
from rdgeodiff.data.conformer_sets import ReferenceMolecule, write_archive
from rdgeodiff.data.shards import read_shard
from rdgeodiff.diffusion.samplers import SAMPLERS
from rdgeodiff.diffusion.schedule import ASCENT, stride_sigmas
from rdgeodiff.graph import MolBatch, is_hydrogen
from rdgeodiff.model_file import save_model
from rdgeodiff.training.climbing import AscentPairing, FinishPairing
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.distillation import stride_target

CPU = torch.device("cpu")


def drawn_sigmas(count: int) -> torch.Tensor:
    """As a run with default settings draws them."""
    generator = torch.Generator().manual_seed(0)
    return torch.exp(-0.7 + 1.6 * torch.randn(count, 1, generator=generator))


def test_a_student_that_climbs_and_has_learnt_everything_is_at_the_foot_what_its_teacher_is():
    pairing = ascent_pairing(strides=3)
    below = dict(pairing.segments(30))
    levels = stride_sigmas(5, 0.4, 12.17, foot=0.86, climbs=2)

    def student(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if float(sigma[0]) <= ASCENT:
            return gaussian(x, sigma)
        upper = min(below, key=lambda s: abs(s - float(sigma[0])))
        return stride_target(gaussian, x, upper, below[upper], 60)

    generator = torch.Generator().manual_seed(1)
    seen = []

    def noise(step: int) -> torch.Tensor:
        return torch.randn(500, 20, 3, generator=generator).double()

    SAMPLERS["euler_ancestral_ascent"](
        lambda x, s: seen.append(x) or student(x, s),
        2.0 + levels[0] * noise(-1),
        levels,
        noise=noise,
    )
    assert len(seen) == 6
    # Spread as the distribution is, with the noise of the level.
    assert float(seen[3].std()) == pytest.approx((1 + 0.86**2) ** 0.5, rel=0.03)
    assert float(seen[3].mean()) == pytest.approx(2.0, abs=0.02)


def ascent_pairing(strides: int, **changes) -> AscentPairing:
    config = TrainConfig(
        {"a": 1.0}, **{"teacher": "swift", "heavy_atoms": True, "strides": strides, **changes}
    )
    return AscentPairing(config, bf16=False, device=CPU)


@pytest.mark.parametrize(
    "changes", [{"strides": 0}, {"levels": [2.0, 1.0]}, {"inner_steps": 0}, {"teacher": "fast"}]
)
def test_a_student_of_climbs_needs_strides_and_a_teacher_that_climbs(changes):
    with pytest.raises(ValueError, match="strides|ascent"):
        ascent_pairing(**{"strides": 4, **changes})


@pytest.mark.parametrize("atoms", [8, 15, 30])
def test_the_pairing_teaches_what_its_sampler_visits(atoms):
    """Molecules of every size learn strides from the levels they are drawn at, each as often as the
    others, and below the foot what the teacher denoises to."""
    pairing = ascent_pairing(strides=4)
    own = dataclasses.replace(
        pairing.teacher.sampling, sampler="euler_ancestral_ascent", steps=6, sigma_min=0.4
    )
    visited = FieldProcess().noise_levels(own, own.sampler, 0, atoms)
    levels = [float(pairing.level(s, atoms)) for s in drawn_sigmas(1000)]
    climbs = [level for level in levels if level <= ASCENT]
    strides = Counter(round(level, 4) for level in levels if level > ASCENT)
    assert sorted(strides, reverse=True) == pytest.approx(visited[:4], abs=1e-3)
    assert min(strides.values()) > 100 and len(climbs) > 350
    assert min(climbs) < 0.21 and max(climbs) > 0.84

    graphs = MolBatch.collate([graph_of("CCCCO")])
    clean, noise = torch.randn(2, 1, graphs.mask.shape[1], 3).unbind()
    teacher = pairing.teacher.bind(graphs, "dpm_solver_pp_2m")
    for level, lower in pairing.segments(graphs.mask.shape[1]):
        x, target = pairing(graphs, clean, noise, torch.tensor([level]))
        assert torch.allclose(target, stride_target(teacher, x, level, lower, 4), atol=1e-4)
    x, target = pairing(graphs, clean, noise, torch.tensor([0.4]))
    assert torch.allclose(target, teacher(x, torch.tensor([0.4])))


@pytest.mark.parametrize("model", ["swift", "own"])
def test_a_student_of_heavy_atoms_keeps_the_finish_of_its_teacher(tmp_path, model):
    """A teacher that climbs has one that climbs, another one of few levels."""
    if model == "own":
        whole = save_model(tmp_path / "whole", tiny_network(2), {})
        entry = {"model": "whole", "levels": [0.5], "sha256": load_model(whole).info["sha256"]}
        own = {"heavy_atoms": True, "sampling": {"steps": 3}, "finish": entry}
        model = save_model(tmp_path / "own", tiny_network(1), own)
    _, path = taught(tmp_path, f"--from {model} --distill 4")
    student, teacher = load_model(path), load_model(model)
    assert student.heavy_atoms and student.info["finish"] == teacher.info["finish"]
    climbs = teacher.sampling.sampler == "ancestral_ascent"
    assert student.sampling.sampler == ("euler_ancestral_ascent" if climbs else "ddim")
    levels = student.process.noise_levels(student.sampling, student.sampling.sampler, 0, 5)
    assert len(levels) == 5
    mol = embedded("CCCCO")
    [result] = EmbedMoleculesDiffusion([mol], 2, model=str(path), maxAttempts=1, randomSeed=1)
    assert len(result.conf_ids) + sum(result.failures.values()) >= 2


def finish_pairing(**changes) -> FinishPairing:
    settings = {"teacher": "small", "finishing": [0.5, 0.25, 0.1, 0.04], **changes}
    return FinishPairing(TrainConfig({"a": 1.0}, **settings), bf16=False, device=CPU)


@pytest.mark.parametrize(
    "changes",
    [{"finishing": [0.2, 0.5]}, {"finishing": [0.05]}, {"strides": 2}, {"levels": [2.0, 1.0]}],
)
def test_a_finish_needs_decreasing_levels_and_nothing_else(changes):
    with pytest.raises(ValueError, match="finishing"):
        finish_pairing(**changes)


def test_a_finish_is_taught_most_at_its_own_level_and_some_at_all_below():
    pairing = finish_pairing()
    levels = [float(pairing.level(s, 20)) for s in drawn_sigmas(1000)]
    assert max(levels) == pytest.approx(0.5)
    assert 550 < sum(level > 0.499 for level in levels) < 650
    assert 0.08 <= min(levels) < 0.09


@pytest.mark.parametrize(
    ("start", "visited"), [(0.5, [0.5, 0.25, 0.1, 0.04]), (0.3, [0.3, 0.1, 0.04]), (0.04, [0.04])]
)
def test_a_finish_leads_where_all_calls_of_the_teacher_do(start, visited):
    pairing = finish_pairing()
    graphs = MolBatch.collate([graph_of("CCCCO")])
    clean = torch.from_numpy(positions_of(embedded("CCCCO"))).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    x, target = pairing(graphs, clean, noise, torch.tensor([start]))
    teacher = pairing.teacher.bind(graphs, "ancestral_ascent", weight=0.0)
    expected = x
    for level in visited:
        expected = teacher(expected, torch.tensor([level]))
    assert torch.allclose(target, expected, atol=1e-5)


def test_hydrogens_set_anew_leave_the_heavy_atoms_and_the_order(tmp_path):
    """Shards to finish from: copies of each conformer that differ in hydrogens that can turn."""
    archive, plain, anew = (tmp_path / name for name in ("a.npz", "b.npz", "c.npz"))
    mols = [(s, embedded(s, 2)) for s in ("CCO", "CC(C)CO")]
    write_archive(archive, [ReferenceMolecule(s, m, positions_of(m), None) for s, m in mols])
    assert main(["dataset", "featurize", str(archive), str(plain), "--quiet"]) == 0
    words = ["dataset", "featurize", str(archive), str(anew), "--hydrogens-anew", "3", "--quiet"]
    assert main(words) == 0
    before, after = read_shard(plain), read_shard(anew)
    assert list(after.n_confs) == [6, 6]
    # Three heavy atoms are too few for a skeleton.
    assert np.allclose(after.conformers(0), np.repeat(before.conformers(0), 3, 0), atol=2e-3)
    hydrogen = is_hydrogen(before.graph(1).node_codes)
    old, new = np.repeat(before.conformers(1), 3, 0), after.conformers(1)
    apart = [np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) for x in (old, new)]
    heavy = np.ix_(range(6), ~hydrogen, ~hydrogen)
    assert np.allclose(apart[0][heavy], apart[1][heavy], atol=4e-3)
    assert np.abs(new[0] - new[1]).max() > 0.3
    bonded = embedded("CC(C)CO").GetBonds()
    lengths = [apart[1][:, b.GetBeginAtomIdx(), b.GetEndAtomIdx()] for b in bonded]
    assert 0.9 < np.min(lengths) and np.max(lengths) < 1.65


def test_a_model_that_finishes_is_trained_on_the_command_line(tmp_path):
    config = tmp_path / "config.json"
    network = {"width": 16, "node_width": 24, "layers": 2, "radial": 12}
    shard = str(tmp_path / "a.npz")
    config.write_text(
        json.dumps(
            {
                "shards": {shard: 1.0},
                "network": network,
                "teacher": "small",
                "finishing": [0.5, 0.1],
            }
        )
    )
    log, path = taught(tmp_path, f"--config {config}")
    assert np.isfinite(list(log[-1]["losses"].values())).all()
    model = load_model(path)
    assert model.info["training"]["finishing"] == [0.5, 0.1] and not model.heavy_atoms
    assert model.whole is not None and model.whole.name == "small"
