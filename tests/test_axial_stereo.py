"""Atropisomers keep their axis, allenes stand at right angles, open stereo can be refused."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import embedded, mol_from, positions_of
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from rdgeodiff import (
    EmbedConformerDiffusion,
    EmbedMoleculeDiffusion,
    EmbedMoleculesDiffusion,
    FailureCause,
)
from rdgeodiff.chem.cumulenes import Allenes
from rdgeodiff.chem.stereo import stereo_tables, wrong_axes
from rdgeodiff.chem.verdict import Judge

# One axis each, both hands, with two, one and no neighbours more at an end than are needed.
ATROPISOMERS = (
    "Cc1cccc(I)c1-c1c(C)cccc1Br |wU:7.6|",
    "Cc1cccc(I)c1-c1c(C)cccc1Br |wD:7.6|",
    "Cc1cccc(I)c1N(C(C)=O)CC |wU:7.6|",
    "Cc1cccc(I)c1-n1c(C)ccc1Br |wD:7.6|",
    "Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12 |wU:10.11|",
)


@pytest.mark.parametrize("smiles", ATROPISOMERS)
def test_the_sign_of_an_axis_is_rdkits(smiles):
    """RDKit's embedder honours the label, so its conformers show what the label means."""
    mol = mol_from(smiles)
    tables = stereo_tables(mol)
    assert tables.axes.shape == (1, 4)
    rdDistGeom.EmbedMultipleConfs(mol, 5, randomSeed=3)
    positions = positions_of(mol)
    assert not wrong_axes(positions, tables).any()
    assert wrong_axes(positions * [1, 1, -1], tables).all()
    reordered = Chem.RenumberAtoms(mol, list(range(mol.GetNumAtoms()))[::-1])
    assert not wrong_axes(positions_of(reordered), stereo_tables(reordered)).any()


@pytest.mark.parametrize("smiles", ATROPISOMERS[:2])
def test_atropisomers_are_delivered_with_their_axis(smiles):
    mol = mol_from(smiles)
    [result] = EmbedMoleculesDiffusion([mol], 8, randomSeed=1, steps=12)
    assert len(result.conf_ids) == 8
    assert not wrong_axes(positions_of(mol), stereo_tables(mol)).any()
    # The network does not know the axis: both hands were drawn, and one was mended.
    assert result.raw_stereo_ok < result.raw_samples == 8


def test_a_fragment_keeps_its_axis():
    mol = mol_from("[Cl-].Cc1cccc(I)c1-c1c(C)cccc1Br |wU:8.7|")
    assert EmbedMoleculeDiffusion(mol, 4, randomSeed=1, steps=12) == [0, 1, 2, 3]
    assert not wrong_axes(positions_of(mol), stereo_tables(mol)).any()


def test_an_axis_beside_a_centre_is_not_mended_by_reflection():
    mol = embedded("Cc1cccc(I)c1-c1c([C@H](F)Cl)cccc1Br |wU:7.6|", 1)
    other = embedded("Cc1cccc(I)c1-c1c([C@@H](F)Cl)cccc1Br |wU:7.6|", 1)
    judge = Judge(mol, stereo_tables(mol))
    good, diastereomer = positions_of(mol)[0], positions_of(other)[0]
    assert judge.judge(good).cause is None
    assert judge.judge(good * [1, 1, -1]).cause is None
    assert judge.judge(diastereomer).cause == "STEREO"
    assert Judge(mol, stereo_tables(mol), enforce_chirality=False).judge(diastereomer).cause is None


@pytest.mark.parametrize("smiles", ["CC=C=CC", "OC(Cl)=[C@]=C(C)F", "C=C=C", "CC(C)(O)C=C=CCO"])
def test_allenes_are_linear_with_ends_at_right_angles(smiles):
    """RDKit drops the stereo of an allene when it reads it; its geometry has to be right."""
    mol = mol_from(smiles)
    pattern = Chem.MolFromSmarts("[*]~C=[C;D2]=C~[*]")
    a, b, c, d, e = mol.GetSubstructMatch(pattern)
    assert len(EmbedMoleculeDiffusion(mol, 6, randomSeed=2, steps=12)) == 6
    for conformer in mol.GetConformers():
        assert rdMolTransforms.GetAngleDeg(conformer, b, c, d) > 165
        x = conformer.GetPositions()
        axis = (x[d] - x[b]) / np.linalg.norm(x[d] - x[b])
        arms = [x[a] - x[b], x[e] - x[d]]
        flat = [v - (v @ axis) * axis for v in arms]
        cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
        assert abs(cosine) < 0.5


def test_a_flat_allene_is_turned_without_a_change_of_bonds():
    mol = embedded("CC=C=CC", 1)
    good = positions_of(mol)[0]
    allenes = Allenes(mol)
    assert np.array_equal(allenes.mend(good), good) and not allenes.any_flat(good)
    # A flat one: the ends of the mirror-symmetric propadiene turned into one plane.
    flat = good.copy()
    axis = flat[3] - flat[1]
    axis /= np.linalg.norm(axis)
    side = [k for k in range(mol.GetNumAtoms()) if (flat[k] - flat[2]) @ axis > 0.2 and k != 3]
    arms = flat[side] - flat[3]
    flat[side] = flat[3] + np.cross(axis, arms) + np.outer(arms @ axis, axis)
    assert allenes.any_flat(flat)
    mended = allenes.mend(flat)
    assert not allenes.any_flat(mended)
    bonds = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()])
    for i, j in (bonds.T, bonds[:, ::-1].T):
        before = np.linalg.norm(flat[i] - flat[j], axis=-1)
        assert np.allclose(np.linalg.norm(mended[i] - mended[j], axis=-1), before, atol=1e-6)


@pytest.mark.parametrize(
    ("smiles", "what"), [("FC(Cl)Br", "centre 1"), ("CC=CC", "double bond 1=2")]
)
def test_open_stereo_is_refused_on_request(smiles, what):
    mol = mol_from(smiles)
    with pytest.raises(ValueError, match=rf"molecule 0 \(.*\): {what} has no specified stereo"):
        EmbedMoleculeDiffusion(mol, 1, strictStereo=True)
    [result] = EmbedMoleculesDiffusion([mol], 3, strictStereo=True)
    assert result.failures == {FailureCause.UNASSIGNED_STEREO: 3}
    assert mol.GetNumConformers() == 0


@pytest.mark.parametrize("smiles", ["F[C@H](Cl)Br", "C/C=C/C", "CC=C=CC", "C1CCCCC1", "CCO"])
def test_nothing_open_is_not_refused(smiles, play):
    script = play(lambda request: positions_of(embedded(smiles))[0])
    assert EmbedMoleculeDiffusion(mol_from(smiles), 1, strictStereo=True) == [0]
    assert len(script.requests) >= 1


def test_fragments_may_be_drawn_together(play):
    mol = mol_from("OCCO.CCN")
    apart = positions_of(embedded(mol))[0]
    fragments = Chem.GetMolFrags(mol)
    apart[list(fragments[1])] += 20.0
    script = play(lambda request: apart)
    assert EmbedMoleculeDiffusion(mol, 1, embedFragmentsSeparately=False) == [0]
    assert [r.graph.n_atoms for r in script.requests] == [mol.GetNumAtoms()]
    assert np.array_equal(mol.GetConformer().GetPositions(), apart)
    # An ion the model does not know cannot ride in its batch.
    with pytest.raises(ValueError, match="Na"):
        EmbedMoleculeDiffusion(mol_from("CC(=O)[O-].[Na+]"), 1, embedFragmentsSeparately=False)


def test_one_conformer_as_embedmolecule_gives_it(play):
    play(lambda request: positions_of(embedded("CCO"))[0])
    mol = mol_from("CCO")
    assert EmbedConformerDiffusion(mol, randomSeed=3) == 0
    assert EmbedConformerDiffusion(mol, clearConfs=False, maxAttempts=2) == 1
    play(lambda request: FailureCause.OUT_OF_MEMORY)
    assert EmbedConformerDiffusion(mol) == -1
    assert mol.GetNumConformers() == 0
