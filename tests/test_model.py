"""The shipped model, end to end: what is written has the stereo that was asked for."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch
from helpers import graph_of
from rdkit import Chem
from stereo_molecules import STEREO_SMILES

from rdgeodiff import EmbedMoleculeDiffusion, EmbedMoleculesDiffusion
from rdgeodiff.checkpoint import load_model
from rdgeodiff.diffusion.samplers import network_calls
from rdgeodiff.model_file import weights_folder
from rdgeodiff.nn import neighbors
from rdgeodiff.opening import shared_model
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.samples import SampleRequest

CLUSTER = importlib.util.find_spec("torch_cluster") is not None


def molecule(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def perceived(mol: Chem.Mol, conf_id: int) -> str:
    """Isomeric SMILES RDKit reads from the positions alone."""
    copy = Chem.Mol(mol, confId=conf_id)
    for atom in copy.GetAtoms():
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for bond in copy.GetBonds():
        bond.SetStereo(Chem.BondStereo.STEREONONE)
    Chem.AssignStereochemistryFrom3D(copy, conf_id, replaceExistingTags=True)
    return Chem.MolToSmiles(Chem.RemoveHs(copy))


@pytest.mark.parametrize("path", ["dense", "edges-cdist", "edges-cluster"])
def test_every_written_conformer_has_the_specified_stereo(path, monkeypatch):
    count = 3 if path == "dense" else 1
    if path != "dense":
        network = shared_model("default", "cpu").network
        monkeypatch.setattr(network, "config", dataclasses.replace(network.config, dense_limit=0))
    if path == "edges-cdist":
        monkeypatch.setattr(neighbors, "_cluster_radius_graph", None)
    if path == "edges-cluster" and not CLUSTER:
        pytest.skip("torch-cluster is not installed")
    assert len(STEREO_SMILES) >= 60
    mols = [molecule(s) for s in STEREO_SMILES]
    results = EmbedMoleculesDiffusion(mols, count, randomSeed=11)
    for smiles, mol, result in zip(STEREO_SMILES, mols, results, strict=True):
        assert len(result.conf_ids) == count, (smiles, result.failures)
        for conf_id in result.conf_ids:
            found = perceived(mol, conf_id)
            assert found == Chem.CanonSmiles(smiles), (smiles, found, conf_id)


# The second is guided in full: what one batch rounds otherwise would end in another basin.
@pytest.mark.parametrize("smiles", ["CC(=O)Oc1ccccc1C(=O)O", "CC(C)NCC(O)COc1ccc(CCOCC2CC2)cc1"])
def test_the_first_of_five_is_the_only_one_of_one(smiles):
    one, five = molecule(smiles), molecule(smiles)
    assert EmbedMoleculeDiffusion(one, 1, randomSeed=3) == [0]
    assert EmbedMoleculeDiffusion(five, 5, randomSeed=3) == [0, 1, 2, 3, 4]
    single, first = (m.GetConformer(0).GetPositions() for m in (one, five))
    assert np.abs(single - first).max() < 1e-3


def test_unassigned_centres_come_out_with_both_hands():
    mol = molecule("FC(Cl)Br")
    ids = EmbedMoleculeDiffusion(mol, 16, randomSeed=5)
    assert len({perceived(mol, i) for i in ids}) == 2


def test_a_macrocycle_a_salt_and_a_large_molecule_are_delivered():
    macrocycle = molecule("C[C@H]1CCCC(=O)CCC/C=C/c2cc(O)cc(O)c2C(=O)O1")
    salt = molecule("[Na+].CC(=O)[O-]")
    large = molecule("C" * 45)  # 137 atoms: takes the edge-list path by itself
    results = EmbedMoleculesDiffusion([macrocycle, salt, large], 2, randomSeed=1)
    assert [len(r.conf_ids) for r in results] == [2, 2, 2]
    apart = salt.GetConformer(0).GetPositions()
    assert np.linalg.norm(apart[1:] - apart[0], axis=1).min() > 2.5


def test_the_largest_molecule_takes_at_most_14_network_calls():
    model = load_model()
    calls: list[int] = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    request = SampleRequest(graph_of("C" * 20), 0, 0, 0, 7)
    Pipeline(model).sample([request], on_result=lambda *_: None)
    assert len(calls) == network_calls(model.sampling.sampler, model.sampling.steps) <= 14


def test_base_is_stored_in_half_precision_and_computes_in_single():
    model = load_model("base")
    assert weights_folder().joinpath("base.safetensors").stat().st_size <= 16_000_000
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    assert 5e6 < sum(p.numel() for p in model.network.parameters()) < 1e7
    smiles = "C[C@H](N)C(=O)O"
    mol = molecule(smiles)
    assert EmbedMoleculeDiffusion(mol, 3, model="base", randomSeed=2) == [0, 1, 2]
    assert {perceived(mol, i) for i in range(3)} == {Chem.CanonSmiles(smiles)}


def test_in_half_precision_too_a_molecule_is_alone_with_its_padding():
    """The shipped network is wide enough for a longer sum to be rounded to another conformer."""
    graphs = [graph_of(smiles) for smiles in ("CCO", "CCCCCCC", "c1ccccc1CCC(=O)NC")]
    requests = [SampleRequest(graph, row, 0, 0, 7) for row, graph in enumerate(graphs)]
    drawn = []
    for pairs in (0, 1):  # all in a batch if they may, and one by one
        found = {}
        Pipeline(load_model(), "cpu", pairs, steps=6, precision="bfloat16").sample(
            requests, on_result=lambda request, x, found=found: found.update({request.row: x})
        )
        drawn.append(found)
    assert all(np.abs(drawn[0][row] - drawn[1][row]).max() < 1e-4 for row in range(3))
