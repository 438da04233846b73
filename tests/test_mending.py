"""A sample whose bonds are off is mended from where it is, once, before it is drawn anew."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import embedded, positions_of
from rdkit import Chem

from rdgeodiff import (
    DiffusionEmbedParameters,
    EmbedMoleculeDiffusion,
    EmbedMoleculesDiffusion,
    FailureCause,
    RefineConformersDiffusion,
)
from rdgeodiff.chem.formats import Record
from rdgeodiff.embed import MENDING_SIGMA
from rdgeodiff.rows import RowEmbedder

SMILES = "CCO"
HYDROGEN = 8  # of the hydroxyl group, the last atom


def good() -> np.ndarray:
    return positions_of(embedded(SMILES, 1))[0].astype(float)


def short() -> np.ndarray:
    """Its O-H bond is 30 % too short."""
    x = good()
    x[HYDROGEN] = x[2] + 0.7 * (x[HYDROGEN] - x[2])
    return x


def embed(n: int, **options):
    mol = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    return EmbedMoleculesDiffusion([mol], n, randomSeed=3, **options)[0]


def test_a_short_bond_is_mended_where_it_is(play):
    script = play(lambda r: short() if r.attempt == 0 and r.conformer == 1 else good())
    result = embed(3)
    assert result.conf_ids == [0, 1, 2] and result.rounds == 2
    assert result.rejections == {FailureCause.BOND_LENGTH: 1}
    last = script.requests[-1]
    assert (last.conformer, last.attempt) == (1, 1)
    assert np.array_equal(last.start, short())
    assert script.started_at == [MENDING_SIGMA]
    assert all(r.start is None for r in script.requests[:-1])


def test_what_cannot_be_mended_is_drawn_anew_and_mended_again(play):
    script = play(lambda r: short())
    result = embed(1, maxIterations=5)
    assert result.failures == {FailureCause.BOND_LENGTH: 1}
    assert [r.start is None for r in script.requests] == [True, False, True, False, True]
    assert [r.attempt for r in script.requests] == list(range(5))


@pytest.mark.parametrize("cause", [FailureCause.NONFINITE, FailureCause.OUT_OF_MEMORY])
def test_nothing_is_left_to_mend_of_no_sample(play, cause):
    script = play(lambda r: cause if r.attempt == 1 else short() if r.attempt == 0 else good())
    result = embed(1)
    starts = [r.start is None for r in script.requests]
    if cause == FailureCause.NONFINITE:
        assert starts == [True, False, True] and result.ok
    else:  # which is final
        assert starts == [True, False] and result.failures == {cause: 1}


def test_what_is_wrong_otherwise_is_drawn_anew(play):
    right, wrong = "C[C@H](F)[C@@H](O)C#N", "C[C@H](F)[C@H](O)C#N"

    def answer(request):
        return positions_of(embedded(wrong if request.attempt == 0 else right, 1))[0].astype(float)

    script = play(answer)
    mol = Chem.AddHs(Chem.MolFromSmiles(right))
    [result] = EmbedMoleculesDiffusion([mol], 1, randomSeed=3)
    assert result.ok and result.rejections == {FailureCause.STEREO: 1}
    assert all(r.start is None for r in script.requests)


def test_held_atoms_and_given_conformers_are_not_mended(play):
    script = play(lambda r: short() if r.attempt == 0 else good())
    mol = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    held = {k: good()[k] for k in (0, 1, 2)}
    EmbedMoleculeDiffusion(mol, 1, randomSeed=3, coordMap=held)
    assert len(script.requests) == 2 and not script.started_at

    mol = embedded(SMILES, 1)
    RefineConformersDiffusion(mol, sigma=0.3, randomSeed=3)
    # Refining itself starts at its own level, from the conformer that was given, every time.
    assert script.started_at == [0.3]
    ours = script.requests[2:]
    assert len(ours) == 2 and np.allclose(ours[0].start, ours[1].start)


def test_a_model_that_begins_lower_draws_anew(play):
    script = play(lambda r: short() if r.attempt == 0 else good())
    script.sigmas = [MENDING_SIGMA, 0.1]
    assert embed(1).ok
    assert [r.start is None for r in script.requests] == [True, True]


def test_company_makes_no_difference_to_what_is_mended():
    """With the shipped few-step model, which leaves many hydrogens to be mended."""
    mols = [
        Chem.AddHs(Chem.MolFromSmiles(s)) for s in ("NCCCNCCO", "CC(C)(O)C#CC(C)(C)O", "OC1CCCCC1O")
    ]
    results = EmbedMoleculesDiffusion(mols, 8, randomSeed=1, model="fast", precision="float32")
    assert all(r.ok for r in results)
    assert sum(sum(r.rejections.values()) for r in results) > 2
    assert results[1].rejections  # at least one of those compared below
    alone = [None, Chem.Mol(mols[1], True), None]
    EmbedMoleculesDiffusion(alone, 8, randomSeed=1, model="fast", precision="float32")
    for one, other in zip(mols[1].GetConformers(), alone[1].GetConformers(), strict=True):
        assert np.abs(one.GetPositions() - other.GetPositions()).max() < 1e-2


def test_rows_of_a_library_are_mended_alike(play):
    """Samples of rows are judged in another thread, and mended all the same."""
    script = play(lambda r: short() if r.attempt == 0 and r.conformer == 1 else good())
    record = Record(4, "ethanol", SMILES, Chem.AddHs(Chem.MolFromSmiles(SMILES)))
    settled = []
    with RowEmbedder(3, DiffusionEmbedParameters(randomSeed=3)) as rows:
        row = rows.prepare(record)
        rows.embed([row], settled.append)
    assert row.result.conf_ids == [0, 1, 2] and row.result.rounds == 2
    assert row.result.rejections == {FailureCause.BOND_LENGTH: 1}
    assert np.array_equal(script.requests[-1].start, short())
    assert script.started_at == [MENDING_SIGMA]
    assert settled == [4]
