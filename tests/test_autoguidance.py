"""A worse network guides a better one, molecule by molecule, and its files are sealed as well."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers import batch_of, largest_difference, noisy, tiny_network
from rdkit import Chem

from rdgeodiff import EmbedMoleculesDiffusion
from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.diffusion.autoguidance import Guidance, guide_away
from rdgeodiff.diffusion.samplers import SAMPLERS
from rdgeodiff.diffusion.schedule import karras_sigmas
from rdgeodiff.model_file import CheckpointError, save_model
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.samples import SampleRequest
from rdgeodiff.sampling import Sampling

SMILES = ["CCO", "CCOC(=O)c1ccccc1", "CC(C)Cc1ccc(cc1)C(C)C(=O)O"]  # 9, 21 and 33 atoms


def guided_model(folder, **settings):
    """Two tiny networks, the second of which guides the first."""
    worse = json.loads(save_model(folder / "worse", tiny_network(seed=1), {}).read_text())
    entry = {"model": "worse", "sha256": worse["sha256"], **settings}
    return save_model(folder / "better", tiny_network(seed=0), {"guide": entry})


def drawn(model, smiles=SMILES, **options):
    mols = [Chem.AddHs(Chem.MolFromSmiles(s)) for s in smiles]
    found = {}

    def keep(request, sample):
        found[request.row] = sample

    pipeline = Pipeline(load_model(model), steps=6, precision="float32", **options)
    requests = [SampleRequest(featurize(m), k, 0, 0, 7) for k, m in enumerate(mols)]
    pipeline.sample(requests, on_result=keep)
    return [found[k] for k in range(len(mols))]


def test_the_prediction_goes_on_from_the_worse_one_through_the_better():
    x = torch.randn(3, 4, 3)
    n_atoms = torch.tensor([10, 20, 40])
    guidance = Guidance(2.0, 0.2, 3.0, 10, 30)
    guided = guide_away(lambda x, s: x, lambda x, s: x + 1.0, guidance, n_atoms)
    assert torch.allclose(guidance.weights(n_atoms), torch.tensor([0.0, 1.0, 2.0]))
    inside = guided(x, torch.full((3,), 1.0)) - x
    assert torch.allclose(inside, -torch.tensor([0.0, 1.0, 2.0]).view(-1, 1, 1).expand(3, 4, 3))
    for level in (0.1, 5.0):
        assert torch.equal(guided(x, torch.full((3,), level)), x)


def test_exact_denoisers_of_a_narrow_and_a_wide_gaussian_draw_a_narrower_one():
    """D of N(0, s²) is s²/(s² + σ²) x; w = 1 away from s = 2 must end narrower than s = 1."""

    def gaussian(s):
        return lambda x, sigma: x * (s**2 / (s**2 + sigma**2)).view(-1, 1, 1)

    def spread(denoiser):
        stream = torch.Generator().manual_seed(0)

        def noise(step):
            return torch.randn((2000, 1, 3), generator=stream)

        sigmas = karras_sigmas(25, 0.01, 12.0, 7.0).tolist()
        start = sigmas[0] * noise(-1)
        return float(SAMPLERS["dpm_solver_pp_2m_sde"](denoiser, start, sigmas, noise=noise).std())

    n_atoms = torch.full((2000,), 30)
    guided = guide_away(gaussian(1.0), gaussian(2.0), Guidance(1.0, 0.1, 5.0), n_atoms)
    alone = spread(gaussian(1.0))
    assert alone == pytest.approx(1.0, abs=0.06)
    assert 0.4 < spread(guided) < 0.9 * alone


def test_small_molecules_are_left_alone_and_large_ones_are_not(tmp_path):
    model = guided_model(tmp_path, weight=0.5, atoms_none=10, atoms_full=30)
    alone, guided = drawn(model, guidance=0.0), drawn(model)
    assert np.array_equal(alone[0], guided[0])
    assert all(np.abs(a - g).max() > 1e-3 for a, g in zip(alone[1:], guided[1:], strict=True))
    other = drawn(model, guidance=1.0)
    assert np.abs(other[2] - guided[2]).max() > 1e-3


def test_guided_samples_do_not_depend_on_their_batch(tmp_path):
    model = guided_model(tmp_path, weight=0.5, atoms_none=10, atoms_full=30)
    together, alone = drawn(model, SMILES, batch_pairs=10**6), drawn(model, batch_pairs=1)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(together, alone, strict=True))


def test_the_parameter_reaches_the_network(tmp_path):
    model = guided_model(tmp_path, weight=0.5)
    results = {}
    for weight in (-1.0, 0.5, 0.0):
        mol = Chem.AddHs(Chem.MolFromSmiles(SMILES[1]))
        settings = {"model": str(model), "steps": 6, "randomSeed": 1, "maxIterations": 1}
        [found] = EmbedMoleculesDiffusion([mol], 1, guidanceWeight=weight, **settings)
        results[weight] = dict(found.rejections), [c.GetPositions() for c in mol.GetConformers()]
    assert repr(results[-1.0]) == repr(results[0.5])
    with pytest.raises(ValueError, match="guidanceWeight"):
        EmbedMoleculesDiffusion([mol], 1, guidanceWeight=-2)


def test_a_model_without_a_guide_is_what_it_was(tmp_path):
    plain = save_model(tmp_path / "plain", tiny_network(), {})
    assert load_model(plain).guide is None
    assert all(
        np.array_equal(a, b) for a, b in zip(drawn(plain), drawn(plain, guidance=3.0), strict=True)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 64},
        {"model": "nowhere"},
        {"model": "../worse"},
        {"weight": -1.0},
        {"weight": "much"},
        {"weight": float("nan")},
        {"strength": 1.0},
    ],
    ids=str,
)
def test_a_guide_that_does_not_fit_is_refused(tmp_path, change):
    model = guided_model(tmp_path, weight=0.5)
    info = json.loads(model.read_text())
    info["guide"].update(change)
    model.write_text(json.dumps(info))
    with pytest.raises(CheckpointError):
        load_model(model)


def test_a_guide_may_not_have_a_guide(tmp_path):
    first = json.loads(guided_model(tmp_path, weight=0.5).read_text())
    entry = {"model": "better", "sha256": first["sha256"], "weight": 1.0}
    with pytest.raises(CheckpointError, match="of its own"):
        load_model(save_model(tmp_path / "third", tiny_network(seed=2), {"guide": entry}))


def test_base_is_guided_the_more_the_larger_and_small_molecules_not():
    model = load_model("base")
    assert model.guide is not None and isinstance(model.sampling, Sampling)
    weights = model.guide[1].weights(torch.tensor([9, 12, 18, 24, 34, 60]))
    assert weights[:2].tolist() == [0.0, 0.0] and 0 < weights[2] < weights[3] < weights[4]
    assert weights[4] == weights[5] == model.guide[1].weight
    assert dataclasses.replace(model, guide=None).guide is None


def test_the_default_model_has_learnt_its_guidance_and_takes_more_on_demand():
    """Its guide has no weight, so it is never called unless a caller gives it one."""
    model = load_model()
    assert model.guide is not None and model.guide[1].weight == 0
    batch = batch_of("CC(C)Cc1ccc(cc1)C(C)C(=O)O")
    x, sigma = noisy(batch, 2.0), torch.ones(1)

    def denoised(weight: float) -> torch.Tensor:
        return model.bind(batch, model.sampling.sampler, weight=weight)(x, sigma)

    with torch.no_grad():
        assert torch.equal(denoised(-1.0), denoised(0.0))
        assert largest_difference(denoised(1.0), denoised(0.0)) > 0.01
