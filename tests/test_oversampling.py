"""More conformers drawn than wanted: those delivered stand for all, and nothing is lost."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from helpers import Script, accounted, embedded, mol_from, positions_of
from rdkit.Chem import rdForceFieldHelpers, rdMolTransforms
from test_relax import drawn

from rdgeodiff import (
    DiffusionEmbedParameters,
    EmbedMoleculeDiffusion,
    EmbedMoleculesDiffusion,
    FailureCause,
    RefineConformersDiffusion,
)
from rdgeodiff.chem.formats import Record
from rdgeodiff.chem.fragments import split
from rdgeodiff.chem.relax import settled_energies
from rdgeodiff.chem.representatives import _distances, _medoids, representatives
from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.cli import main
from rdgeodiff.evaluation.generators import EtkdgGenerator, make_generators
from rdgeodiff.rows import RowEmbedder

BUTANE = "CCCC"


def butane(*torsions: float) -> np.ndarray:
    """Positions of butane, one conformer for each torsion in degrees."""
    mol = embedded(BUTANE)
    found = []
    for torsion in torsions:
        rdMolTransforms.SetDihedralDeg(mol.GetConformer(), 0, 1, 2, 3, torsion)
        found.append(positions_of(mol)[0])
    return np.array(found)


def cyclohexanes() -> tuple[np.ndarray, np.ndarray]:
    """A chair and a twist-boat, minimised."""
    mol = embedded("C1CCCCC1", 60)
    done = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=5000)
    energies = np.array([energy for _, energy in done])
    assert np.ptp(energies) > 5, "no twist-boat among the conformers"
    return positions_of(mol)[energies.argmin()], positions_of(mol)[energies.argmax()]


def indices(mol) -> list[int]:
    return [c.GetIntProp("rdgeodiff_index") for c in mol.GetConformers()]


def torsions(mol) -> list[float]:
    return [abs(rdMolTransforms.GetDihedralDeg(c, 0, 1, 2, 3)) for c in mol.GetConformers()]


def test_each_next_one_lessens_the_weighted_distance_most():
    rng = np.random.default_rng(5)
    points, weights = rng.normal(size=(40, 3)), rng.exponential(size=40)
    apart = np.linalg.norm(points[:, None] - points, axis=-1)
    order = _medoids(apart, weights)
    assert sorted(order) == list(range(40))
    nearest = np.full(40, apart.max())
    for k in order[:25]:
        costs = weights @ np.minimum(nearest[:, None], apart)
        assert costs[k] == pytest.approx(costs.min(), abs=1e-9)
        nearest = np.minimum(nearest, apart[:, k])


def test_distances_are_the_same_in_blocks(monkeypatch):
    mol = embedded("CC(C)C(=O)OCCO", 9)
    positions = positions_of(mol)
    monkeypatch.setattr("rdgeodiff.chem.representatives._PAIRS", 20)
    expected = rmsd_matrix(mol, positions, positions).values
    assert np.abs(_distances(mol, positions) - expected).max() < 1e-5


def test_repeated_conformers_are_delivered_once(play):
    anti, gauche = butane(180, 60)
    play(lambda r: gauche if r.conformer == 5 else anti)
    mol = mol_from(BUTANE)
    assert EmbedMoleculeDiffusion(mol, 2, oversampling=4) == [0, 1]
    assert indices(mol) == [0, 5]
    assert torsions(mol) == pytest.approx([180, 60], abs=0.1)


def test_low_conformers_count_for_more(play):
    chair, boat = cyclohexanes()
    play(lambda r: chair if r.conformer == 2 else boat)
    mol = mol_from("C1CCCCC1")
    EmbedMoleculeDiffusion(mol, 1, oversampling=4)
    assert indices(mol) == [2]


def test_energies_need_not_count(play, monkeypatch):
    monkeypatch.setattr("rdgeodiff.task.settled_energies", None)  # nor cost any time
    chair, boat = cyclohexanes()
    play(lambda r: chair if r.conformer == 2 else boat)
    for relax in ("", "MMFF94s"):
        mol = mol_from("C1CCCCC1")
        EmbedMoleculeDiffusion(mol, 1, oversampling=4, energyWidth=-1, relax=relax)
        assert indices(mol) == [0]


def test_energies_have_lost_what_bonds_cost_and_kept_the_torsions():
    """Noise of 0.02 Å costs several kcal/mol, which thirty steps take away again."""
    chair, boat = cyclohexanes()
    mol = mol_from("C1CCCCC1")
    rng = np.random.default_rng(0)
    fragments = split(mol)
    noisy = [{0: x + 0.02 * rng.normal(size=x.shape)} for x in (chair, chair, boat)]
    energies = settled_energies(fragments, [0], noisy)
    assert energies is not None
    assert abs(energies[1] - energies[0]) < 0.4
    assert 4 < energies[2] - energies[0] < 8


def test_energies_that_are_not_known_weigh_nothing():
    anti, gauche = butane(180, 60)
    positions = np.array([gauche, gauche, gauche, anti])
    mol = mol_from(BUTANE)
    assert representatives([(mol, positions)])[0] == 0
    assert representatives([(mol, positions)], np.array([np.nan, np.inf, np.nan, 3.0]))[0] == 3
    assert representatives([(mol, positions)], np.full(4, np.nan))[0] == 0


def test_how_fragments_lie_to_each_other_does_not_count():
    mol = embedded("CCCO", 6)
    positions = positions_of(mol)
    water = positions_of(embedded("O"))[0]
    moved = np.array([water + 5.0 * k for k in range(6)])
    alone = representatives([(mol, positions)])
    assert representatives([(mol, positions), (mol_from("O"), moved)]) == alone


def test_samples_beyond_those_needed_may_be_lost(play):
    [anti] = butane(180)
    script = play(lambda r: FailureCause.NONFINITE if r.conformer % 2 else anti)
    [result] = EmbedMoleculesDiffusion([mol_from(BUTANE)], 3, oversampling=2)
    assert result.ok and result.conf_ids == [0, 1, 2] and not result.failures
    assert result.rejections == {"NONFINITE": 3} and result.requested == 3
    assert script.rounds == [(6, False)], "nothing had to be drawn again"


def test_what_is_missing_is_drawn_again_and_then_counted(play):
    [anti] = butane(180)
    script = play(lambda r: anti if r.conformer == 4 else FailureCause.NONFINITE)
    [result] = EmbedMoleculesDiffusion([mol_from(BUTANE)], 3, oversampling=2, maxIterations=2)
    assert result.conf_ids == [0] and result.failures == {"NONFINITE": 2} and accounted(result)
    assert [count for count, _ in script.rounds] == [6, 5]


def test_pruning_takes_from_all_that_was_drawn(play):
    anti, gauche = butane(180, 60)
    play(lambda r: gauche if r.conformer == 7 else anti)
    mol = mol_from(BUTANE)
    [result] = EmbedMoleculesDiffusion([mol], 3, oversampling=3, pruneRmsThresh=0.2)
    assert indices(mol) == [0, 7]
    assert result.failures == {"PRUNED": 1} and result.ok and accounted(result)


def test_relaxed_energies_choose_among_relaxed_conformers(play):
    chair, boat = cyclohexanes()
    play(lambda r: chair if r.conformer == 2 else boat)
    mol = mol_from("C1CCCCC1")
    EmbedMoleculeDiffusion(mol, 2, oversampling=2, relax="MMFF94s")
    low, high = (c.GetDoubleProp("rdgeodiff_energy") for c in mol.GetConformers())
    assert indices(mol)[0] == 2 and high - low > 5


@pytest.mark.parametrize("smiles", ["CB(O)O", "C[CH]C", "[Na+].[Cl-]"])
@pytest.mark.parametrize("relax", ["", "MMFF94s"])
def test_molecules_without_parameters_or_network(play, smiles, relax):
    play(drawn("CB(O)O", "C[CH]C"))
    [result] = EmbedMoleculesDiffusion([mol_from(smiles)], 3, oversampling=2, relax=relax)
    assert result.ok and result.conf_ids == [0, 1, 2] and accounted(result)


def test_after_the_time_limit_nothing_is_weighed(play, monkeypatch):
    def slow(request):
        time.sleep(0.02)
        return butane(180)[0]

    play(slow)
    weighed = []
    monkeypatch.setattr("rdgeodiff.task.settled_energies", lambda *a: weighed.append(a))
    [result] = EmbedMoleculesDiffusion([mol_from(BUTANE)], 2, oversampling=40, timeout=0.3)
    assert result.conf_ids == [0, 1] and result.ok and not weighed


def test_the_same_in_company_and_with_threads():
    alone, among = mol_from("CC(O)CN"), mol_from("CC(O)CN")
    options = {"randomSeed": 3, "oversampling": 3, "precision": "float32"}
    EmbedMoleculesDiffusion([alone], 4, **options)
    EmbedMoleculesDiffusion([among, mol_from("CCO")], 4, numThreads=2, **options)
    assert indices(alone) == indices(among)
    assert np.abs(positions_of(alone) - positions_of(among)).max() < 1e-3


def test_one_delivers_what_is_drawn_in_its_order(play):
    play(drawn("CCCO"))
    plain, once = mol_from("CCCO"), mol_from("CCCO")
    EmbedMoleculeDiffusion(plain, 4)
    EmbedMoleculeDiffusion(once, 4, oversampling=1)
    assert indices(once) == [0, 1, 2, 3]
    assert np.array_equal(positions_of(plain), positions_of(once))


def test_a_row_of_a_library_is_settled_once_after_its_last_sample(play):
    """Before that the judges would still write to it."""
    play(lambda r: FailureCause.NONFINITE if r.attempt == r.conformer == 0 else butane(180)[0])
    settled, judged = [], []
    with RowEmbedder(2, DiffusionEmbedParameters(randomSeed=3, oversampling=3)) as rows:
        prepared = [rows.prepare(Record(k, "", BUTANE, mol_from(BUTANE))) for k in (4, 7)]
        parts = {row.record.row: row.task.parts for row in prepared}

        def on_settled(row: int) -> None:
            settled.append(row)
            judged.append(sum(map(len, parts[row])))

        rows.embed(prepared, on_settled)
    assert sorted(settled) == [4, 7] and judged == [5, 5]
    assert all(row.result.ok and row.result.rounds == 1 for row in prepared)


def test_refining_takes_every_conformer_in_its_place(play):
    play(drawn("CCCO"))
    mol = embedded("CCCO", 3)
    assert RefineConformersDiffusion(mol, 0.1, oversampling=4) == [0, 1, 2]


@pytest.mark.parametrize("wrong, error", [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_how_often_must_be_a_number_from_one_up(wrong, error):
    with pytest.raises(error, match="oversampling"):
        DiffusionEmbedParameters(oversampling=wrong)


@pytest.mark.parametrize("wrong", [0, -2, float("nan")])
def test_the_width_of_energies_is_above_zero_or_none(wrong):
    with pytest.raises(ValueError, match="energyWidth"):
        DiffusionEmbedParameters(energyWidth=wrong)
    assert DiffusionEmbedParameters(energyWidth=-1).energyWidth == -1


def test_etkdg_beside_it_is_given_the_same_chance():
    mol = mol_from("OCCCCO")
    plain, chosen = (EtkdgGenerator(seed=1, oversampling=k) for k in (1, 4))
    (pool,), (made,) = plain([mol], [12]), chosen([mol], [3])
    assert made.positions.shape == (3, mol.GetNumAtoms(), 3) and made.requested == 3
    drawn_too = [any(np.array_equal(p, q) for q in pool.positions) for p in made.positions]
    assert all(drawn_too) and not np.array_equal(made.positions, pool.positions[:3])
    alike = EtkdgGenerator(seed=1, oversampling=4, energy_width=-1)
    (made,) = alike([mol], [3])
    order = representatives([(mol, pool.positions)])
    assert np.array_equal(made.positions, pool.positions[order[:3]])
    model, rival = make_generators(["diffusion", "etkdg+mmff"], oversampling=4, energyWidth=-1)
    assert model._options["oversampling"] == rival._oversampling == 4
    assert model._options["energyWidth"] == rival._width == -1


def test_command_and_file_of_parameters(tmp_path, monkeypatch):
    """What the command line does not say, the file of parameters does."""
    script, told = Script(lambda r: butane(180)[0]), []
    monkeypatch.setattr("rdgeodiff.opening.open_source", lambda s: told.append(s) or script)
    source, params, target = (tmp_path / n for n in ("m.smi", "p.json", "o.sdf"))
    source.write_text("CCCC butane\n")
    own = {"oversampling": 3, "energyWidth": 1.0, "precision": "float32"}
    params.write_text(json.dumps(own))
    call = ["embed", str(source), str(target), "-n", "2", "--quiet", "--params", str(params)]
    assert main(call) == 0
    assert len(script.requests) == 6 and own.items() <= vars(told[-1]).items()
    assert main([*call, "--oversampling", "1"]) == 0
    assert len(script.requests) == 8
