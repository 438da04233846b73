"""Relaxation: RDKit's own energies, nothing lost, nothing silent, the user's Mol untouched."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import accounted, embedded, mol_from, positions_of
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from rdgeodiff import DiffusionEmbedParameters, EmbedMoleculeDiffusion, EmbedMoleculesDiffusion
from rdgeodiff.chem.fragments import split
from rdgeodiff.chem.relax import (
    MAX_STEPS,
    NoForceFieldError,
    has_parameters,
    relax_parts,
    relax_positions,
)
from rdgeodiff.chem.stereo import stereo_tables
from rdgeodiff.chem.verdict import Judge
from rdgeodiff.parameters import FORCE_FIELDS
from rdgeodiff.results import FailureCause
from rdgeodiff.task import Task

CHIRAL = "C[C@H](F)[C@@H](O)C#N"


def drawn(*smiles, count=12):
    """An answer for `play`: ETKDG conformers of the molecule with the request's number of atoms."""
    ensembles = {}
    for one in smiles:
        mol = embedded(one, count)
        ensembles[mol.GetNumAtoms()] = positions_of(mol)
    return lambda r: ensembles[r.graph.n_atoms][(r.conformer + 3 * r.attempt) % count]


def energies_of(mol, force_field):
    """RDKit's energies in kcal/mol of the conformers as they are."""
    if force_field == "UFF":
        fields = [
            rdForceFieldHelpers.UFFGetMoleculeForceField(mol, confId=c.GetId())
            for c in mol.GetConformers()
        ]
    else:
        known = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant=force_field)
        fields = [
            rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, known, confId=c.GetId())
            for c in mol.GetConformers()
        ]
    return np.array([f.CalcEnergy() for f in fields])


def minimised_by_rdkit(mol, force_field):
    copy = Chem.Mol(mol)
    if force_field == "UFF":
        found = rdForceFieldHelpers.UFFOptimizeMoleculeConfs(copy, maxIters=MAX_STEPS)
    else:
        found = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(
            copy, maxIters=MAX_STEPS, mmffVariant=force_field
        )
    return np.array([energy for _, energy in found]), positions_of(copy)


@pytest.mark.parametrize("force_field", FORCE_FIELDS)
def test_energies_go_down_to_rdkits_own(force_field):
    mol = embedded("OCC(N)c1ccncc1", 4)
    before, start = mol.ToBinary(), positions_of(mol)
    one = relax_positions(mol, list(start), force_field, threads=1)
    energies, positions = minimised_by_rdkit(mol, force_field)
    assert (one.energies < energies_of(mol, force_field)).all() and one.converged.all()
    assert np.array_equal(one.energies, energies)
    assert np.array_equal(np.stack(one.positions), positions)
    four = relax_positions(mol, list(start), force_field, threads=4)
    assert np.array_equal(four.energies, one.energies)
    assert np.array_equal(np.stack(four.positions), np.stack(one.positions))
    assert mol.ToBinary() == before and np.array_equal(positions_of(mol), start)


@pytest.mark.parametrize("force_field", ["MMFF94s", "UFF"])
def test_fixed_atoms_stay_with_any_number_of_threads(force_field):
    mol = embedded("OCC(N)c1ccncc1", 3)
    start = positions_of(mol)
    results = [
        relax_positions(mol, list(start), force_field, threads, fixed=(0, 7)) for threads in (1, 3)
    ]
    for found in results:
        positions = np.stack(found.positions)
        assert np.array_equal(positions[:, [0, 7]], start[:, [0, 7]])
        assert np.abs(positions - start).max() > 0.01
        assert np.array_equal(found.energies, results[0].energies)
        assert np.array_equal(positions, np.stack(results[0].positions))
        assert (found.energies < energies_of(mol, force_field)).all()


@pytest.mark.parametrize(
    ("smiles", "force_field", "known"),
    [
        ("CB(O)O", "MMFF94s", False),
        ("CB(O)O", "UFF", True),
        ("C[CH2]", "MMFF94", False),
        ("C[CH2]", "UFF", False),
        ("C[Si](C)(C)C", "MMFF94s", True),
    ],
)
def test_what_has_parameters(smiles, force_field, known):
    mol = mol_from(smiles)
    assert has_parameters(mol, force_field) is known
    if not known:
        with pytest.raises(NoForceFieldError, match=force_field):
            relax_positions(mol, [np.zeros((mol.GetNumAtoms(), 3))], force_field)


def test_an_unknown_force_field_is_named():
    with pytest.raises(ValueError, match="'AMBER'.*MMFF94s, MMFF94, UFF"):
        relax_positions(mol_from("C"), [], "AMBER")
    assert relax_positions(mol_from("C"), []).positions == []


@pytest.mark.parametrize("threads", [1, 4])
def test_delivered_conformers_are_relaxed_and_say_so(play, threads):
    answer = drawn(CHIRAL)
    play(answer)
    mol = mol_from(CHIRAL)
    mol.SetProp("note", "kept")
    # RDKit may keep intermediate results, such as distances in bonds, as computed properties.
    kinds = Chem.PropertyPickleOptions
    everything = int(kinds.MolProps | kinds.AtomProps | kinds.BondProps | kinds.PrivateProps)
    bare, centers = mol.ToBinary(everything), Chem.FindMolChiralCenters(Chem.Mol(mol))
    [result] = EmbedMoleculesDiffusion([mol], 4, relax="MMFF94s", numThreads=threads)
    assert result.conf_ids == [0, 1, 2, 3] and result.unrelaxed == {} and accounted(result)
    reference = embedded(CHIRAL, 12)
    energies, positions = minimised_by_rdkit(reference, "MMFF94s")
    assert np.array_equal(positions_of(mol), positions[:4])
    for k, conformer in enumerate(mol.GetConformers()):
        assert conformer.GetPropsAsDict() == {
            "rdgeodiff_index": k,
            "rdgeodiff_relaxed": "yes",
            "rdgeodiff_energy": energies[k],
            "rdgeodiff_force_field": "MMFF94s",
        }
        copy = Chem.Mol(mol, confId=k)
        Chem.AssignStereochemistryFrom3D(copy, k, replaceExistingTags=True)
        assert Chem.FindMolChiralCenters(copy) == centers
    mol.RemoveAllConformers()
    assert mol.ToBinary(everything) == bare


def test_without_relaxation_only_the_index_is_told(play):
    play(drawn("CCO"))
    mol = mol_from("CCO")
    EmbedMoleculeDiffusion(mol, 2)
    found = [c.GetPropsAsDict() for c in mol.GetConformers()]
    assert found == [{"rdgeodiff_index": 0}, {"rdgeodiff_index": 1}]


@pytest.mark.parametrize("smiles", ["CB(O)O", "C[CH]C"])
def test_no_parameters_is_counted_and_the_conformer_delivered(play, smiles):
    answer = drawn(smiles)
    script = play(answer)
    mol = mol_from(smiles)
    [result] = EmbedMoleculesDiffusion([mol], 3, relax="MMFF94s")
    assert result.conf_ids == [0, 1, 2] and result.ok and accounted(result)
    assert result.unrelaxed == {"NO_PARAMETERS": 3}
    for request in script.requests:
        conformer = mol.GetConformer(request.conformer)
        assert np.array_equal(conformer.GetPositions(), answer(request))
        assert conformer.GetProp("rdgeodiff_relaxed") == "NO_PARAMETERS"
        assert not conformer.HasProp("rdgeodiff_energy")
        assert not conformer.HasProp("rdgeodiff_force_field")


def test_what_a_judge_rejects_stays_as_drawn():
    """A relaxed sample of the diastereomer is wrong whatever the field does to it."""
    mol = embedded(CHIRAL, 2)
    fragments, start = split(mol), list(positions_of(mol))
    other = mol_from("C[C@H](F)[C@H](O)C#N")
    judges = {0: Judge(other, stereo_tables(other))}
    found = relax_parts(fragments, judges, [{0: p} for p in start], "MMFF94s")
    assert [f.cause for f in found] == [FailureCause.STEREO] * 2
    assert all(f.energy is None and f.parts[0] is p for f, p in zip(found, start, strict=True))


def test_an_unfinished_minimisation_is_delivered_and_counted(play, monkeypatch):
    monkeypatch.setattr("rdgeodiff.chem.relax.MAX_STEPS", 2)
    play(drawn("CCCCO"))
    mol = mol_from("CCCCO")
    [result] = EmbedMoleculesDiffusion([mol], 2, relax="UFF")
    assert result.unrelaxed == {"NOT_CONVERGED": 2} and result.ok
    conformer = mol.GetConformer(0)
    assert conformer.GetProp("rdgeodiff_relaxed") == "NOT_CONVERGED"
    energies = energies_of(mol, "UFF")
    assert conformer.GetDoubleProp("rdgeodiff_energy") == pytest.approx(energies[0], abs=1e-6)


def test_fragments_are_relaxed_apart_and_their_energies_summed(play):
    play(drawn(CHIRAL, "O"))
    mol = mol_from(f"{CHIRAL}.O.[Xe]")
    [result] = EmbedMoleculesDiffusion([mol], 1, relax="MMFF94s")
    assert result.conf_ids == [0] and result.unrelaxed == {}
    energy = mol.GetConformer(0).GetDoubleProp("rdgeodiff_energy")
    parts = Chem.GetMolFrags(mol, asMols=True)
    apart = sum(energies_of(p, "MMFF94s").item() for p in parts if p.GetNumAtoms() > 1)
    assert energy == pytest.approx(apart, abs=1e-6)


def test_missing_hydrogens_take_part_in_the_relaxation(play):
    play(drawn(CHIRAL))
    bare, full = Chem.MolFromSmiles(CHIRAL), mol_from(CHIRAL)
    for mol in (bare, full):
        assert EmbedMoleculeDiffusion(mol, 1, relax="MMFF94s") == [0]
    heavy = bare.GetNumAtoms()
    assert np.array_equal(positions_of(bare)[0], positions_of(full)[0, :heavy])


def test_pruning_sees_the_relaxed_conformers(play):
    rng = np.random.default_rng(0)
    start = positions_of(embedded("CCO", 1))[0]
    play(lambda r: start + rng.normal(scale=0.02, size=start.shape))
    mol = mol_from("CCO")
    [result] = EmbedMoleculesDiffusion([mol], 4, relax="MMFF94s", pruneRmsThresh=0.005)
    assert result.conf_ids == [0] and result.failures == {"PRUNED": 3} and accounted(result)


def test_held_atoms_stay_where_they_belong(play):
    answer = drawn("CCCO")
    play(answer)
    mol = mol_from("CCCO")
    places = {k: tuple(positions_of(embedded("CCCO", 1))[0, k] + 5.0) for k in (0, 1, 2)}
    assert EmbedMoleculeDiffusion(mol, 1, coordMap=places, relax="MMFF94s") == [0]
    found = mol.GetConformer(0)
    assert found.GetProp("rdgeodiff_relaxed") == "yes"
    assert np.allclose(found.GetPositions()[:3], list(places.values()), atol=0.02)


def test_tasks_can_be_settled_in_threads(play):
    smiles = ["CCO", "CCCO", "OCCO", "CCCCO"] * 2
    settings = DiffusionEmbedParameters(relax="MMFF94s", pruneRmsThresh=0.1)

    def ready():
        tasks = []
        for row, one in enumerate(smiles):
            task = Task(mol_from(one), row, 3, settings)
            for k, positions in enumerate(positions_of(embedded(one, 3))):
                task.take(k, 0, 0, positions)
            tasks.append(task)
        return tasks

    plain, threaded = ready(), ready()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda task: task.settle(settings, False), threaded))
    for one, other in zip(plain, threaded, strict=True):
        one.deliver(settings, False)
        other.deliver(settings, False)
        assert one.result == other.result and one.result.conf_ids
        assert np.array_equal(positions_of(one.mol), positions_of(other.mol))


def test_nothing_is_relaxed_after_the_deadline():
    settings = DiffusionEmbedParameters(relax="UFF")
    mol = mol_from("CCO")
    task = Task(mol, 0, 1, settings)
    task.take(0, 0, 0, positions_of(embedded("CCO", 1))[0])
    task.settle(settings, False, deadline=time.monotonic() - 1)
    task.deliver(settings, False)
    assert task.result.conf_ids == [0] and task.result.unrelaxed == {"EXCEEDED_TIMEOUT": 1}


def test_the_parameter():
    assert DiffusionEmbedParameters().relax == DiffusionEmbedParameters(relax=None).relax == ""
    for name in FORCE_FIELDS:
        params = DiffusionEmbedParameters(relax=name)
        assert DiffusionEmbedParameters.fromJSON(params.toJSON()) == params
    with pytest.raises(ValueError, match="MMFF94s, MMFF94, UFF.*'mmff'"):
        DiffusionEmbedParameters(relax="mmff")
    with pytest.raises(TypeError, match="relax"):
        DiffusionEmbedParameters(relax=True)
