"""What is taken of GEOM: the papers' splits, and conformers that fit their molecule."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from geom_files import MOLECULES, conformers_of, geom_folder, shuffled
from helpers import embedded, mol_from, positions_of
from rdkit import Chem

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.data.geom import GeomError, GeomFolder, RawConformer, RawMolecule
from rdgeodiff.data.geom_ensembles import SkipCause, SkippedError, clean
from rdgeodiff.data.geom_splits import confgf_split, read_split, write_split


@pytest.fixture(scope="module")
def geom(tmp_path_factory) -> Path:
    return geom_folder(tmp_path_factory.mktemp("geom") / "rdkit_folder")


def raw(smiles: str, mols: list[Chem.Mol], weights: list[float] | None = None) -> RawMolecule:
    weights = weights or [1.0] * len(mols)
    parts = [
        RawConformer(m.ToBinary(), None, w, float(k))
        for k, (m, w) in enumerate(zip(mols, weights, strict=True))
    ]
    return RawMolecule("x", smiles, parts)


# Splits


def test_index_files_of_objects_and_numbers(tmp_path, geom):
    names = GeomFolder(geom, "drugs").sorted_names()
    assert names == sorted(names) and len(names) == len(MOLECULES)
    parts = np.empty(3, object)
    parts[:] = [np.array([3, 0]), np.array([1]), np.array([4, 2])]
    objects, plain, equal = (tmp_path / f"{n}.npy" for n in ("split0", "plain", "equal"))
    np.save(objects, parts, allow_pickle=True)
    np.save(plain, np.array([2, 1]))
    np.save(equal, np.arange(3)[:, None])
    assert read_split(objects, "train", names) == [names[0], names[3]]
    assert read_split(objects, "test", names) == [names[2], names[4]]
    assert read_split(plain, "test", names) == [names[1], names[2]]
    assert read_split(equal, "val", names) == [names[1]]
    with pytest.raises(GeomError, match="another copy"):
        read_split(objects, "test", names[:4])


def test_written_splits_are_read_back(tmp_path):
    path = tmp_path / "split.json"
    write_split(path, {"train": ["a", "b"], "test": ["c"]})
    assert read_split(path, "test") == ["c"]
    with pytest.raises(GeomError, match="'val'"):
        read_split(path, "val")
    path.write_text('["d"]')
    assert read_split(path, "val") == ["d"]
    path.write_text("[1]")
    with pytest.raises(GeomError, match="names"):
        read_split(path, "val")


def test_the_papers_draw():
    """Sizes, eligibility and disjointness; the names are pinned, as the seed is part of it."""
    counts = [k % 120 for k in range(400)]
    summary = {f"C{k}": {"uniqueconfs": n, "pickle_path": f"p{k}"} for k, n in enumerate(counts)}
    summary["bad"] = {"uniqueconfs": 60}
    of = {entry["pickle_path"]: entry["uniqueconfs"] for entry in list(summary.values())[:-1]}
    split = confgf_split(summary, "drugs", molecules=100, tests=10)
    assert {k: len(v) for k, v in split.items()} == {"train": 80, "val": 10, "test": 10}
    assert min(of[n] for n in split["train"] + split["val"]) >= 5
    assert all(50 <= of[n] <= 100 for n in split["test"])
    assert not set(split["test"]) & {*split["train"], *split["val"]}
    assert split == confgf_split(summary, "drugs", molecules=100, tests=10)
    reference = random.Random(2021)
    drawn = [name for name, count in of.items() if count >= 5]
    reference.shuffle(drawn)
    assert {*split["train"], *split["val"]} < set(drawn[:100])
    with pytest.raises(GeomError, match="50000 molecules"):
        confgf_split(summary, "qm9")


# Cleaning


def test_positions_come_in_the_order_of_the_smiles(geom):
    source = GeomFolder(geom, "drugs")
    for name, smiles in zip(source.names, MOLECULES, strict=True):
        found = clean(source.read(name))
        mol = found.reference.mol
        assert Chem.MolToSmiles(mol) == Chem.MolToSmiles(mol_from(found.reference.smiles))
        original = embedded(smiles, MOLECULES[smiles])
        same = rmsd_matrix(original, positions_of(original), positions_of(original)).values
        order = original.GetSubstructMatch(mol, useChirality=True)
        moved = positions_of(original)[:, list(order)]
        np.testing.assert_allclose(
            rmsd_matrix(mol, found.reference.positions, moved).values, same, atol=1e-5
        )
        assert not found.dropped
        np.testing.assert_allclose(
            found.reference.energies, 1.5 * np.arange(MOLECULES[smiles]), atol=1e-9
        )


def test_open_stereochemistry_is_taken_from_the_conformers():
    mols = conformers_of(shuffled(embedded("C[C@H](F)[C@@H](O)Cl", 2)))
    for m in mols:
        Chem.RemoveStereochemistry(m)
    found = clean(raw("CC(F)C(O)Cl", mols))
    assert found.reference.smiles == Chem.CanonSmiles("C[C@H](F)[C@@H](O)Cl")
    assert not found.stereo_changed and len(found.graph.parities) == 2
    other = clean(raw("C[C@@H](F)[C@@H](O)Cl", mols))
    assert other.stereo_changed and other.reference.smiles == found.reference.smiles


def test_conformers_that_do_not_fit_are_dropped_by_cause():
    smiles = "C[C@H](F)Cl"
    mols = conformers_of(embedded(smiles, 2))
    mirrored, reacted = Chem.Mol(mols[0]), embedded("FCCCl")
    mirrored.GetConformer().SetPositions(mols[0].GetConformer().GetPositions() * [1, 1, -1])
    far = Chem.Mol(mols[0])
    far.GetConformer().SetAtomPosition(0, (100.0, 0.0, 0.0))
    nothing = mol_from(smiles)
    every = [mols[0], mirrored, reacted, far, nothing, mols[1]]
    found = clean(raw(smiles, every, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    assert found.dropped == {"OTHER_STEREO": 1, "OTHER_GRAPH": 1, "BROKEN": 2}
    assert len(found.reference.positions) == 2
    # The heaviest conformer decides the stereochemistry.
    found = clean(raw(smiles, every[:2], [1.0, 2.0]))
    assert found.stereo_changed and found.dropped == {"OTHER_STEREO": 1}


def test_other_places_of_charges_and_equal_halves_are_the_same_molecule():
    mol = embedded("CC([O-])=O", 1)
    swapped = Chem.RWMol(mol)
    first, second = (a for a in swapped.GetAtoms() if a.GetAtomicNum() == 8)
    carbon = first.GetNeighbors()[0].GetIdx()
    for atom in (first, second):
        bond = swapped.GetBondBetweenAtoms(atom.GetIdx(), carbon)
        charged = atom.GetFormalCharge() == -1
        bond.SetBondType(Chem.BondType.DOUBLE if charged else Chem.BondType.SINGLE)
        atom.SetFormalCharge(0 if charged else -1)
    found = clean(raw("CC([O-])=O", [mol, swapped.GetMol()]))
    assert not found.dropped and len(found.reference.positions) == 2
    graph = featurize(found.reference.mol)
    assert (graph.pair_codes == found.graph.pair_codes).all()


def test_the_heaviest_are_taken_first():
    mols = conformers_of(embedded("CCCCO", 4))
    found = clean(raw("CCCCO", mols, [0.1, 0.4, 0.2, 0.3]), conformers=2)
    np.testing.assert_allclose(found.reference.energies, [0.0, 2.0])  # rows 1 and 3, from row 1


@pytest.mark.parametrize(
    ("given", "made", "limits", "cause"),
    [
        ("CCO", None, {}, SkipCause.NO_CONFORMERS),
        ("C(", "CCO", {}, SkipCause.INVALID_SMILES),
        ("COC", "CCO", {}, SkipCause.OTHER_GRAPH),
        ("C[Se]C", "C[Se]C", {}, SkipCause.UNSUPPORTED_ATOM),
        ("CCO", "CCO", {"max_atoms": 8}, SkipCause.TOO_LARGE),
        ("CCO", "CCO", {"least": 2}, SkipCause.TOO_FEW_CONFORMERS),
    ],
)
def test_molecules_are_skipped_by_cause(given, made, limits, cause):
    mols = [] if made is None else [embedded(made)]
    with pytest.raises(SkippedError) as skipped:
        clean(raw(given, mols), **limits)
    assert skipped.value.cause == cause
