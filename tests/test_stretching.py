"""Stretching out: larger structures are chosen more often, and none of them is distorted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import Script, is_bonded_sensibly
from rdkit import Chem

from rdgeodiff import DiffusionEmbedParameters, EmbedMoleculeDiffusion
from rdgeodiff.cli import main
from rdgeodiff.diffusion.samplers import SAMPLERS
from rdgeodiff.diffusion.schedule import ascent_sigmas
from rdgeodiff.diffusion.stretching import HIGHEST_SIGMA, LOWEST_SIGMA, stretch

LEVELS = [12.17, 4.0, 0.905, 0.5, 0.0]
FLEXIBLE = "NCCCC(=O)NCCCCC(=O)O"  # folds upon itself in the gas phase


def _echo(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return x


def _radius(positions: np.ndarray) -> float:
    return float(np.sqrt(((positions - positions.mean(0)) ** 2).sum(-1).mean()))


def test_only_between_its_levels_and_each_molecule_at_its_own():
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([HIGHEST_SIGMA * 1.01, 4.0, LOWEST_SIGMA * 1.01, LOWEST_SIGMA * 0.99])
    found = stretch(_echo, 0.5, LEVELS)(x, sigma)
    assert torch.equal(found[[0, 3]], x[[0, 3]])
    assert torch.allclose(found[[1, 2]], 1.5 * x[[1, 2]])

    assert stretch(_echo, 0.0, LEVELS) is _echo


def test_not_where_too_little_noise_is_left_to_mend_bonds():
    levels = [12.17, 4.17, 1.17, 0.25, 0.0]  # of a distilled model
    sigma, x = torch.tensor([4.17, 1.17]), torch.ones(2, 3, 3)
    found = stretch(_echo, 0.5, levels)(x, sigma)
    assert torch.equal(found, x * torch.tensor([1.5, 1.0]).view(2, 1, 1))
    again = [12.17, 4.17, 1.17, 1.17, 0.25, 0.0]  # nothing is left after the last visit, either
    assert torch.equal(stretch(_echo, 0.5, again)(x, sigma), found)

    assert stretch(_echo, 0.5, [0.5, 0.2, 0.0]) is _echo


@pytest.mark.parametrize("name", ["ancestral_ascent", "dpm_solver_pp_2m", "euler_ancestral"])
def test_of_two_known_structures_the_larger_is_chosen_more_often_and_both_are_kept(name):
    line = torch.tensor([[-1.5, 0, 0], [-0.5, 0, 0], [0.5, 0, 0], [1.5, 0, 0]]).double()
    bent = torch.tensor([[0.5, 0.5, 0], [0.5, -0.5, 0], [-0.5, -0.5, 0], [-0.5, 0.5, 0]]).double()
    both = torch.stack([line, bent])

    def exact(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        apart = (x.unsqueeze(1) - both).square().sum((2, 3))
        share = torch.softmax(-0.5 * apart / sigma.view(-1, 1) ** 2, 1)
        return torch.einsum("bk,knd->bnd", share, both)

    def drawn(share: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        levels = ascent_sigmas(30, 0.04, 12.17)

        def noise(step: int) -> torch.Tensor:
            made = torch.randn(4000, 4, 3, generator=generator, dtype=torch.float64)
            return made - made.mean(1, keepdim=True)

        return SAMPLERS[name](
            stretch(exact, share, levels), levels[0] * noise(-1), levels, noise=noise
        )

    found = {share: drawn(share) for share in (0.0, 1.0)}
    lines = {}
    for share, x in found.items():
        missed = (x.unsqueeze(1) - both).abs().amax((2, 3)).amin(1)
        assert missed.median() < 0.05  # what is stretched ends where it would have ended
        lines[share] = ((x - line).square().sum((1, 2)) < 0.5).double().mean().item()
    assert lines[0.0] == pytest.approx(0.5, abs=0.04)  # five standard errors
    assert 0.95 > lines[1.0] > lines[0.0] + 0.05


# `fast` has one level alone at which it may be stretched.
@pytest.mark.parametrize(("model", "least"), [("small", 1.1), ("fast", 1.01)])
def test_a_flexible_molecule_is_less_folded_and_whole(model, least):
    radii = {}
    for share in (0.0, 0.6):
        mol = Chem.AddHs(Chem.MolFromSmiles(FLEXIBLE))
        ids = list(EmbedMoleculeDiffusion(mol, 12, randomSeed=3, stretch=share, model=model))
        assert len(ids) == 12
        made = [mol.GetConformer(i).GetPositions() for i in ids]
        assert all(is_bonded_sensibly(mol, p) for p in made)
        heavy = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
        radii[share] = np.mean([_radius(p[heavy]) for p in made])
    assert radii[0.6] > least * radii[0.0]


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf")])
def test_the_parameter_is_checked(wrong):
    with pytest.raises(ValueError, match="stretch"):
        DiffusionEmbedParameters(stretch=wrong)
    assert json.loads(DiffusionEmbedParameters(stretch=0.6).toJSON())["stretch"] == 0.6


def test_the_command_line_passes_it_on(tmp_path, monkeypatch):
    chain = np.c_[1.5 * np.arange(4), np.zeros(4), np.zeros(4)]
    told = []
    monkeypatch.setattr(
        "rdgeodiff.opening.open_source", lambda s: told.append(s) or Script(lambda r: chain)
    )
    source = tmp_path / "m.smi"
    source.write_text("CCCC butane\n")
    main(["embed", str(source), str(tmp_path / "o.sdf"), "-n", "1", "--quiet", "--stretch", "0.6"])
    assert told[0].stretch == 0.6
