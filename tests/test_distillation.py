"""Few-step students: the target is where the teacher's steps end, and one DDIM step goes there."""

from __future__ import annotations

import pytest
import torch
from helpers import embedded, gaussian, graph_of, taught

from rdgeodiff import EmbedMoleculesDiffusion
from rdgeodiff.checkpoint import load_model
from rdgeodiff.cli import main
from rdgeodiff.diffusion.samplers import SAMPLERS, ddim
from rdgeodiff.diffusion.solvers import advance
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.samples import SampleRequest
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.distillation import StridePairing, stride_target, student_levels


def exact_flow(x: torch.Tensor, upper: float, lower: float) -> torch.Tensor:
    """Where the probability flow of that distribution leads."""
    return 2.0 + (x - 2.0) * ((1.0 + lower**2) / (1.0 + upper**2)) ** 0.5


@pytest.mark.parametrize(("upper", "lower"), [(12.17, 4.0), (1.2, 0.25), (0.25, 0.0)])
def test_one_stride_ends_where_many_steps_of_the_teacher_do(upper, lower):
    x = 2.0 + upper * torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    target = stride_target(gaussian, x, upper, lower, 40)
    reached = target + (lower / upper) * (x - target)
    assert torch.allclose(reached, exact_flow(x, upper, lower), atol=0.02 * max(upper, 0.1))


def test_one_step_of_the_teacher_is_the_teacher():
    x = torch.randn(2, 4, 3).double()
    sigma = torch.full((2,), 1.5, dtype=torch.float64)
    assert torch.allclose(stride_target(gaussian, x, 1.5, 0.5, 1), gaussian(x, sigma))


def test_a_student_that_has_learnt_everything_follows_the_flow():
    levels = [*student_levels(4), 0.0]
    below = dict(zip(levels, levels[1:], strict=False))

    def student(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        upper = min(below, key=lambda s: abs(s - float(sigma[0])))
        return stride_target(gaussian, x, upper, below[upper], 60)

    x = 12.17 * torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1)).double()
    found = ddim(student, x, levels, noise=lambda step: pytest.fail("drew noise"))
    assert torch.allclose(found, exact_flow(x, levels[0], 0.0), atol=0.05)


def test_an_ancestral_student_that_has_learnt_everything_draws_the_distribution():
    levels = [*student_levels(8), 0.0]
    below = {a: b * b / a for a, b in zip(levels, levels[1:], strict=False)}

    def student(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        upper = min(below, key=lambda s: abs(s - float(sigma[0])))
        return stride_target(gaussian, x, upper, below[upper], 60)

    generator = torch.Generator().manual_seed(1)

    def noise(step: int) -> torch.Tensor:
        return torch.randn(500, 20, 3, generator=generator).double()

    x = 2.0 + levels[0] * noise(-1)
    found = SAMPLERS["euler_ancestral"](student, x, levels, noise=noise)
    assert float(found.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(found.std()) == pytest.approx(1.0, abs=0.02)
    assert not torch.allclose(found, exact_flow(x, levels[0], 0.0), atol=0.5)


def test_a_part_of_the_way_is_a_part_of_the_way():
    x = torch.randn(1, 3, 3).double()
    halfway = advance(gaussian, x, [4.0, 2.0, 1.0])
    assert torch.allclose(halfway, exact_flow(x, 4.0, 1.0), atol=0.15)
    assert not torch.allclose(halfway, advance(gaussian, x, [4.0, 2.0, 1.0, 0.0]))


@pytest.mark.parametrize("levels", [[1.0], [1.0, 2.0], [1.0, 0.0], []])
def test_wrong_levels_are_refused(levels):
    with pytest.raises(ValueError, match="levels"):
        config = TrainConfig({"a": 1.0}, teacher="default", levels=levels)
        StridePairing(config, bf16=False, device=torch.device("cpu"))


def test_a_student_takes_at_least_two_calls():
    with pytest.raises(ValueError, match="at least 2"):
        student_levels(1)


def test_every_level_is_drawn():
    levels = student_levels(4)
    config = TrainConfig({"a": 1.0}, teacher="default", levels=levels)
    pairing = StridePairing(config, bf16=False, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.exp(-0.7 + 1.6 * torch.randn(400, 1, generator=generator))
    counts = torch.tensor([float(pairing.level(s, 9)) for s in drawn])
    for level in levels:
        assert 60 < int((counts == torch.tensor(level)).sum()) < 140


@pytest.mark.parametrize(("count", "sampler"), [(3, "ddim"), (6, "euler_ancestral")])
def test_distilled_on_the_command_line_it_embeds_with_as_many_calls(tmp_path, count, sampler):
    log, path = taught(tmp_path, f"--from default --distill {count}")
    assert log[-1]["losses"].keys() == {f"{level:g}" for level in student_levels(count)}
    model = load_model(path)
    assert model.info["training"]["teacher"] == "default"
    levels = model.process.noise_levels(model.sampling, model.sampling.sampler, 0)
    assert levels == pytest.approx([*student_levels(count), 0.0])
    calls: list[int] = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    graph = graph_of("CCO")
    request = SampleRequest(graph, row=0, conformer=0, attempt=0, seed=1)
    Pipeline(model).sample([request], on_result=lambda *_: None)
    assert len(calls) == count
    assert model.sampling.sampler == sampler


def test_distilling_needs_a_model(tmp_path, capsys):
    shard = tmp_path / "a.npz"
    assert main(["train", "--distill", "4", "--data", str(shard), "--out", str(tmp_path)]) == 2
    assert "--from" in capsys.readouterr().err


def test_the_shipped_student_draws_good_molecules_in_four_calls():
    model = load_model("fast")
    assert (model.sampling.sampler, model.sampling.steps, model.guide) == ("ddim", 4, None)
    mol = embedded("CC(=O)Nc1ccc(O)cc1")
    [result] = EmbedMoleculesDiffusion([mol], 5, model="fast", randomSeed=3)
    assert len(result.conf_ids) == 5
