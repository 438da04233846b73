"""Misuse raises with a sentence; in a list it becomes a cause, and the neighbours go on."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

import rdgeodiff.opening
from rdgeodiff import (
    DiffusionEmbedParameters,
    EmbedMoleculeDiffusion,
    EmbedMoleculesDiffusion,
    FailureCause,
)


class Forbidden:
    """A pipeline nothing may be drawn from."""

    def sample(self, *args, **kwargs):
        raise AssertionError("the network was called")


class Methane:
    """A pipeline that knows methane only."""

    def sample(self, requests, *, guided, deadline, on_result):
        mol = Chem.AddHs(Chem.MolFromSmiles("C"))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        for request in requests:
            on_result(request, mol.GetConformer().GetPositions())


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(rdgeodiff.opening, "open_source", lambda settings: Forbidden())


@pytest.fixture
def methane_network(monkeypatch):
    monkeypatch.setattr(rdgeodiff.opening, "open_source", lambda settings: Methane())


def methane():
    return Chem.AddHs(Chem.MolFromSmiles("C"))


def no_rings():
    mol = Chem.MolFromSmiles("CC", sanitize=False)
    mol.UpdatePropertyCache()
    return mol


BAD = [
    (lambda: Chem.Mol(), FailureCause.NO_ATOMS, "molecule has no atoms"),
    (lambda: Chem.MolFromSmiles("CC", sanitize=False), FailureCause.UNSANITIZED, "SanitizeMol"),
    (no_rings, FailureCause.UNSANITIZED, "SanitizeMol"),
    (lambda: Chem.MolFromSmarts("[#6]~C"), FailureCause.QUERY_ATOMS, "query"),
    (lambda: Chem.MolFromSmiles("*CC"), FailureCause.UNSUPPORTED_ATOM, r"atom 0 is a dummy"),
    (lambda: Chem.MolFromSmiles("C[Pt]C"), FailureCause.UNSUPPORTED_ATOM, r"atom 1 is Pt"),
    (lambda: Chem.MolFromSmiles("C" * 1001), FailureCause.TOO_LARGE, "1001 atoms"),
]


@pytest.mark.parametrize(("make", "cause", "words"), BAD)
def test_bad_molecules_raise_in_the_single_call(no_network, make, cause, words):
    with pytest.raises(ValueError, match=words) as caught:
        EmbedMoleculeDiffusion(make(), 2)
    assert caught.value.cause == cause
    if cause != FailureCause.NO_ATOMS:
        assert Chem.MolToSmiles(make())[:8] in str(caught.value)


@pytest.mark.parametrize("thing", [None, "CCO", 5])
def test_what_is_no_molecule_is_a_type_error(no_network, thing):
    with pytest.raises(TypeError, match="RDKit Mol"):
        EmbedMoleculeDiffusion(thing)


def test_bad_molecules_in_a_list_are_reported_and_the_others_go_on(methane_network):
    mols = [methane(), None, *[make() for make, _, _ in BAD], "CCO", methane()]
    results = EmbedMoleculesDiffusion(mols, 3)
    assert len(results) == len(mols)
    causes = [FailureCause.INVALID_INPUT, *[cause for _, cause, _ in BAD]]
    causes.append(FailureCause.INVALID_INPUT)
    for row, (result, cause) in enumerate(zip(results[1:-1], causes, strict=True), start=1):
        assert result.conf_ids == []
        assert result.failures == {cause: 3}
        assert f"molecule {row}" in result.error
        assert not result.ok
    for k in (0, -1):
        assert results[k].ok and results[k].error is None
        assert results[k].conf_ids == [0, 1, 2]
        assert mols[k].GetNumConformers() == 3


def test_a_refused_molecule_keeps_its_conformers(no_network):
    mol = Chem.MolFromSmiles("C[Pt]C")
    mol.AddConformer(Chem.Conformer(3))
    with pytest.raises(ValueError):
        EmbedMoleculeDiffusion(mol)
    assert mol.GetNumConformers() == 1


def test_a_model_that_cannot_be_loaded_leaves_the_molecule_alone():
    mol = methane()
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    with pytest.raises(ValueError, match="no model named"):
        EmbedMoleculeDiffusion(mol, model="no such model")
    assert mol.GetNumConformers() == 1


@pytest.mark.parametrize("count", [-1, [3, -1]])
def test_negative_numbers_are_refused(no_network, count):
    if count == -1:
        with pytest.raises(ValueError, match=r"-1 for molecule 0 .*C"):
            EmbedMoleculeDiffusion(methane(), count)
    else:
        with pytest.raises(ValueError, match=r"-1 for molecule 1"):
            EmbedMoleculesDiffusion([methane(), methane()], count)


def test_other_misuse(no_network):
    with pytest.raises(TypeError, match="whole number"):
        EmbedMoleculeDiffusion(methane(), 1.5)
    with pytest.raises(TypeError, match="several"):
        EmbedMoleculesDiffusion(methane())
    with pytest.raises(ValueError, match="1 values of numConfs for 2 molecules"):
        EmbedMoleculesDiffusion([methane(), methane()], [1])
    with pytest.raises(TypeError, match="randomsed"):
        EmbedMoleculeDiffusion(methane(), randomsed=3)
    with pytest.raises(TypeError, match="params"):
        EmbedMoleculeDiffusion(methane(), 1, {"randomSeed": 3})
    with pytest.raises(TypeError, match="coordMap"):
        EmbedMoleculeDiffusion(methane(), coordMap={0: None})
    assert EmbedMoleculesDiffusion([], 3) == []


def test_none_wanted_is_none_given(no_network):
    mol = methane()
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    assert EmbedMoleculeDiffusion(mol, 0) == []
    assert mol.GetNumConformers() == 0


def test_single_atoms_need_no_network(no_network):
    mol = Chem.MolFromSmiles("[Cl-]")
    assert EmbedMoleculeDiffusion(mol, 2) == [0, 1]
    assert np.array_equal(mol.GetConformer(1).GetPositions(), np.zeros((1, 3)))


def test_missing_hydrogens_are_warned_of_and_only_lent(methane_network, caplog):
    mol = Chem.MolFromSmiles("C")
    mol.SetProp("_Name", "gas")
    with caplog.at_level(logging.WARNING, logger="rdgeodiff"):
        assert EmbedMoleculeDiffusion(mol, 2) == [0, 1]
    assert "Molecule does not have explicit Hs. Consider calling AddHs()" in caplog.text
    assert mol.GetNumAtoms() == 1
    assert mol.GetProp("_Name") == "gas"
    assert mol.GetConformer(0).Is3D()


def test_failure_counts_stand_on_the_parameters(methane_network):
    params = DiffusionEmbedParameters(trackFailures=True)
    EmbedMoleculeDiffusion(methane(), 2, params)
    assert params.GetFailureCounts() == {}


def test_the_molecule_gets_no_properties_but_conformers(play):
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    mol.SetProp("_Name", "ethanol")
    play(lambda request: FailureCause.OUT_OF_MEMORY)
    before = list(mol.GetPropNames(includePrivate=True, includeComputed=True))
    EmbedMoleculeDiffusion(mol, 1)
    assert list(mol.GetPropNames(includePrivate=True, includeComputed=True)) == before
