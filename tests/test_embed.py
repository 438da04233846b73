"""What the embedding call does with good, mirrored, wrong, broken and late samples.

The network is replaced by a script, so each sample's fate is known beforehand.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from helpers import accounted
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from rdgeodiff import (
    DiffusionEmbedParameters,
    EmbedMoleculeDiffusion,
    EmbedMoleculesDiffusion,
    FailureCause,
)

TWO_CENTERS = "C[C@H](F)[C@@H](O)C#N"
DIASTEREOMER = "C[C@H](F)[C@H](O)C#N"


def with_hydrogens(smiles):
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def conformer(smiles, seed):
    mol = with_hydrogens(smiles)
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol.GetConformer().GetPositions()


def good(smiles):
    return lambda r: conformer(
        smiles, 1 + (r.seed * 31 + r.row * 7 + r.conformer * 3 + r.attempt) % 10_000
    )


def labels(mol, conf_id):
    copy = Chem.Mol(mol, confId=conf_id)
    Chem.AssignStereochemistryFrom3D(copy, conf_id, replaceExistingTags=True)
    return Chem.FindMolChiralCenters(copy)


def test_good_samples_are_written_as_they_are(play):
    script = play(good(TWO_CENTERS))
    mol = with_hydrogens(TWO_CENTERS)
    before = mol.ToBinary()
    [result] = EmbedMoleculesDiffusion([mol], 4, randomSeed=5)
    assert result.conf_ids == [0, 1, 2, 3] and result.ok and accounted(result)
    assert (result.raw_samples, result.raw_stereo_ok, result.rounds) == (4, 4, 1)
    assert script.rounds == [(4, False)]
    for k in range(4):
        written = mol.GetConformer(k)
        assert written.Is3D()
        request = next(r for r in script.requests if r.conformer == k)
        assert np.array_equal(written.GetPositions(), script.answer(request))
        assert labels(mol, k) == Chem.FindMolChiralCenters(mol)
    mol.RemoveAllConformers()
    assert mol.ToBinary() == before


def test_a_mirror_image_is_reflected(play):
    script = play(lambda r: -good(TWO_CENTERS)(r))
    mol = with_hydrogens(TWO_CENTERS)
    [result] = EmbedMoleculesDiffusion([mol], 3, randomSeed=5)
    assert result.conf_ids == [0, 1, 2] and script.rounds == [(3, False)]
    assert (result.raw_samples, result.raw_stereo_ok, result.rejections) == (3, 0, {})
    assert all(labels(mol, k) == Chem.FindMolChiralCenters(mol) for k in range(3))


def test_a_wrong_diastereomer_is_drawn_again_and_guided(play):
    def answer(request):
        wrong = request.attempt == 0 and request.conformer in (1, 2)
        return good(DIASTEREOMER if wrong else TWO_CENTERS)(request)

    script = play(answer)
    mol = with_hydrogens(TWO_CENTERS)
    [result] = EmbedMoleculesDiffusion([mol], 4, randomSeed=5)
    assert script.rounds == [(4, False), (2, True)]
    assert result.conf_ids == [0, 1, 2, 3] and result.rounds == 2
    assert result.rejections == {"STEREO": 2} and result.failures == {}
    assert (result.raw_samples, result.raw_stereo_ok) == (4, 2)
    assert all(labels(mol, k) == Chem.FindMolChiralCenters(mol) for k in range(4))


def test_what_cannot_be_made_right_is_counted_and_ends(play):
    script = play(good(DIASTEREOMER))
    mol = with_hydrogens(TWO_CENTERS)
    params = DiffusionEmbedParameters(randomSeed=5, trackFailures=True)
    assert EmbedMoleculeDiffusion(mol, 2, params) == []
    assert len(script.rounds) == 10
    assert params.GetFailureCounts() == {"STEREO": 20}
    [result] = EmbedMoleculesDiffusion([mol], 2, params, maxAttempts=3)
    assert len(script.rounds) == 13
    assert result.failures == {"STEREO": 2} and result.rejections == {"STEREO": 6}
    assert mol.GetNumConformers() == 0 and not result.ok and accounted(result)


def test_chirality_may_be_let_go(play):
    script = play(good(DIASTEREOMER))
    mol = with_hydrogens(TWO_CENTERS)
    [result] = EmbedMoleculesDiffusion([mol], 2, enforceChirality=False)
    assert result.conf_ids == [0, 1] and script.rounds == [(2, False)]
    assert (result.raw_samples, result.raw_stereo_ok) == (2, 0)


def test_double_bonds_are_checked(play):
    play(good("C/C=C/CO"))
    mol = with_hydrogens(r"C/C=C\CO")
    [result] = EmbedMoleculesDiffusion([mol], 1, maxIterations=2)
    assert result.failures == {"DOUBLE_BOND_STEREO": 1}
    assert result.raw_stereo_ok == 0


def broken(kind, positions):
    positions = positions.copy()
    if kind == FailureCause.NONFINITE:
        positions[2] = np.nan
    elif kind == FailureCause.BOND_LENGTH:
        positions *= 1.6
    else:
        return kind
    return positions


@pytest.mark.parametrize("kind", [FailureCause.NONFINITE, FailureCause.BOND_LENGTH])
def test_broken_samples_are_replaced_and_the_last_cause_counts(play, kind):
    def answer(request):
        positions = good("CCCO")(request)
        if request.conformer == 1 and request.attempt < 2:
            return broken(kind, positions)
        if request.conformer == 2:
            other = FailureCause.NONFINITE if request.attempt < 2 else FailureCause.BOND_LENGTH
            return broken(other, positions)
        return positions

    play(answer)
    mol = with_hydrogens("CCCO")
    [result] = EmbedMoleculesDiffusion([mol], 4, maxIterations=3)
    assert result.conf_ids == [0, 1, 2] and accounted(result)
    assert result.failures == {"BOND_LENGTH": 1}
    assert sum(result.rejections.values()) == 5


@pytest.mark.parametrize("cause", [FailureCause.OUT_OF_MEMORY, FailureCause.TOO_LARGE])
def test_some_causes_are_final(play, cause):
    script = play(lambda r: cause)
    [result] = EmbedMoleculesDiffusion([with_hydrogens("CCO")], 3)
    assert script.rounds == [(3, False)]
    assert result.failures == {cause: 3} and result.raw_samples == 0


def test_timeout_follows_rdkit_in_the_single_call_only(play):
    def answer(request):
        if request.conformer == 1:
            time.sleep(0.6)
        return good("CCO")(request)

    play(answer)
    mol = with_hydrogens("CCO")
    params = DiffusionEmbedParameters(timeout=0.5, trackFailures=True)
    assert EmbedMoleculeDiffusion(mol, 3, params) == [-1]
    assert mol.GetNumConformers() == 0
    assert params.GetFailureCounts() == {"EXCEEDED_TIMEOUT": 1}
    [result] = EmbedMoleculesDiffusion([mol], 3, params)
    assert result.conf_ids == [0, 1]
    assert result.failures == {"EXCEEDED_TIMEOUT": 1} and accounted(result)


def test_an_interrupt_keeps_finished_work(play):
    def answer(request):
        if request.row == 0:
            raise KeyboardInterrupt
        return good("CCO")(request)

    play(answer)
    mols = [with_hydrogens("CCO"), with_hydrogens("CCO")]
    with pytest.raises(KeyboardInterrupt):
        EmbedMoleculesDiffusion(mols, 2)
    assert [m.GetNumConformers() for m in mols] == [0, 2]


def test_the_first_of_many_is_the_only_one_of_one(play):
    play(good("CCCCO"))
    one, five = with_hydrogens("CCCCO"), with_hydrogens("CCCCO")
    EmbedMoleculeDiffusion(one, 1, randomSeed=9)
    EmbedMoleculeDiffusion(five, 5, randomSeed=9)
    assert np.array_equal(one.GetConformer(0).GetPositions(), five.GetConformer(0).GetPositions())


def test_seed_minus_one_is_fresh_each_time(play):
    script = play(good("CCO"))
    for _ in range(2):
        EmbedMoleculeDiffusion(with_hydrogens("CCO"), 1)
    assert script.requests[0].seed != script.requests[1].seed
    EmbedMoleculeDiffusion(with_hydrogens("CCO"), 1, randomSeed=4)
    assert script.requests[2].seed == 4


def test_ids_and_existing_conformers_as_in_rdkit(play):
    play(good("CCO"))
    mol = with_hydrogens("CCO")
    assert EmbedMoleculeDiffusion(mol, 3) == [0, 1, 2]
    assert EmbedMoleculeDiffusion(mol, 2, clearConfs=False) == [3, 4]
    assert EmbedMoleculeDiffusion(mol, 2) == [0, 1]
    assert mol.GetNumConformers() == 2
    first = with_hydrogens("CCO")
    results = EmbedMoleculesDiffusion([first, first], [2, 1])
    assert [r.conf_ids for r in results] == [[0, 1], [2]]


def test_pruned_conformers_are_counted_and_ids_stay_contiguous(play):
    play(lambda r: conformer("CCCCO", 1 + r.conformer // 2))
    mol = with_hydrogens("CCCCO")
    [result] = EmbedMoleculesDiffusion([mol], 4, pruneRmsThresh=0.01)
    assert result.conf_ids == [0, 1]
    assert result.failures == {"PRUNED": 2} and result.ok and accounted(result)


def test_calls_written_for_rdkit_work(play):
    script = play(good("CCO"))
    mol = with_hydrogens("CCO")
    ids = EmbedMoleculeDiffusion(
        mol, numConfs=2, maxAttempts=5, randomSeed=3, pruneRmsThresh=-1.0, numThreads=0,
        clearConfs=True, useRandomCoords=True, useExpTorsionAnglePrefs=True, coordMap={},
    )  # fmt: skip
    assert ids == [0, 1]
    theirs = rdDistGeom.ETKDGv3()
    theirs.randomSeed = 3
    assert EmbedMoleculeDiffusion(mol, 2, theirs) == [0, 1]
    assert {r.seed for r in script.requests} == {3}
    assert EmbedMoleculeDiffusion(Chem.RWMol(mol), 1) == [0]


def test_rows_have_streams_of_their_own(play):
    script = play(good("CCO"))
    results = EmbedMoleculesDiffusion([with_hydrogens("CCO"), None, with_hydrogens("CCO")], 2)
    assert {(r.row, r.conformer) for r in script.requests} == {(0, 0), (0, 1), (2, 0), (2, 1)}
    assert [len(r.conf_ids) for r in results] == [2, 0, 2]


def test_fragments_are_drawn_apart_and_only_the_bad_one_again(play):
    by_size = {13: TWO_CENTERS, 3: "O"}

    def answer(request):
        smiles = by_size[request.graph.n_atoms]
        if smiles == TWO_CENTERS and request.attempt == 0:
            smiles = DIASTEREOMER
        return conformer(smiles, 1 + request.seed % 10_000)

    script = play(answer)
    mol = with_hydrogens(f"{TWO_CENTERS}.O.O.[Cl-]")
    assert len(Chem.GetMolFrags(mol)[0]) == 13
    [result] = EmbedMoleculesDiffusion([mol], 2, randomSeed=8)
    assert result.conf_ids == [0, 1]
    assert script.rounds == [(6, False), (2, True)]
    # Two equal fragments must not be given the same noise.
    assert len({r.seed for r in script.requests}) == 3
    positions = mol.GetConformer(0).GetPositions()
    fragments = Chem.GetMolFrags(mol)
    for k, one in enumerate(fragments):
        for other in fragments[:k]:
            gaps = positions[list(one)][:, None] - positions[list(other)]
            assert np.linalg.norm(gaps, axis=-1).min() > 2.99


def test_the_network_sees_the_same_graph_wherever_the_hydrogens_come_from(play):
    script = play(good(TWO_CENTERS))
    mol = with_hydrogens(TWO_CENTERS)
    EmbedMoleculeDiffusion(mol, 1)
    read = Chem.MolFromMolBlock(Chem.MolToMolBlock(mol, confId=0), removeHs=False)
    again = Chem.Mol(mol)
    Chem.SanitizeMol(again)
    bare = Chem.MolFromSmiles(TWO_CENTERS)
    for other in (read, again, bare):
        EmbedMoleculeDiffusion(other, 1)
    first, *others = (r.graph for r in script.requests)
    for graph in others:
        assert np.array_equal(graph.node_codes, first.node_codes)
        assert np.array_equal(graph.pair_codes, first.pair_codes)


def test_the_progress_bar_counts_molecules(play, capsys):
    play(good("CCO"))
    EmbedMoleculesDiffusion([with_hydrogens("CCO")] * 2, 1, progress=True)
    assert "2/2" in capsys.readouterr().err
