"""SMILES in, checked conformers out: every seed is a conformer or has a cause."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_cases import build
from helpers import mol_from
from rdkit import Chem

from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.chem.stereo import unassigned_stereo
from rdgeodiff.chem.xtb import XtbProgram
from rdgeodiff.data.conformer_sets import read_archive
from rdgeodiff.data.shards import read_shard
from rdgeodiff.datasets.export import export_dataset
from rdgeodiff.datasets.recipe import Recipe
from rdgeodiff.datasets.seeds import EtkdgSeeds
from rdgeodiff.datasets.selection import spread

pytestmark = pytest.mark.usefixtures("xtb")


def test_every_seed_is_a_conformer_or_has_a_cause(tmp_path: Path) -> None:
    entries = build(tmp_path, "CCCCO butanol", "c1ccccc1 benzene", "C[C@H](N)C(=O)O alanine")
    for entry in entries:
        assert len(entry.positions) + sum(entry.losses.values()) == entry.drawn == 5
        assert 1 <= len(entry.positions) <= 3 and entry.cause is None
    assert len(entries[0].positions) == 3 and len(entries[1].positions) == 1
    assert entries[1].losses == {"SAME_CONFORMER": 4}


def test_the_force_field_alone_needs_no_xtb_and_accounts_for_every_seed(
    tmp_path: Path, xtb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    lines = ("OCC(O)CCN", "CCB(O)O", "c1ccccc1")
    made = {}
    for choose in ("lowest", "spread"):
        recipe = Recipe(conformers=3, seeds=12, window=8.0, method="mmff94s", choose=choose)
        made[choose] = build(tmp_path / choose, *lines, recipe=recipe)
        for entry in made[choose]:
            assert len(entry.positions) + sum(entry.losses.values()) == entry.drawn == 12
        assert made[choose][1].cause == "NO_FORCE_FIELD"
        assert len(made[choose][2].positions) == 1
        assert (np.diff(made[choose][0].energies) >= 0).all()
    assert not xtb.exists()
    low, far = (made[choose][0] for choose in ("lowest", "spread"))
    assert len(low.positions) == len(far.positions) == 3
    assert np.abs(low.positions[0] - far.positions[0]).max() < 1e-6
    assert low.energies[-1] <= far.energies[-1]


def test_straight_from_the_seeds_no_force_field_comes_first(
    tmp_path: Path, xtb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    draw = EtkdgSeeds.draw

    def remembered(self: EtkdgSeeds, mol: Chem.Mol, count: int, seed: int) -> list[np.ndarray]:
        drawn[:] = draw(self, mol, count, seed)
        return drawn

    monkeypatch.setattr(EtkdgSeeds, "draw", remembered)
    straight = Recipe(conformers=3, seeds=8, straight=True, window=1e6)
    (entry,) = build(tmp_path, "OCC(O)CCN", recipe=straight)
    assert len(entry.positions) + sum(entry.losses.values()) == entry.drawn == 8
    assert entry.losses["NOT_NEEDED"] == 5
    assert not entry.unrelaxed
    assert xtb.read_text().count("--opt") == 3 and "--gfnff" not in xtb.read_text()
    # The stand-in for xtb leaves geometries where they are: the most different of ETKDG's own.
    mol = mol_from(entry.smiles)
    expected = np.array([drawn[k] for k in spread(mol, drawn)[:3]])
    assert (rmsd_matrix(mol, expected, np.array(entry.positions)).values.min(1) < 1e-3).all()


def test_what_is_exported_is_what_was_made(tmp_path: Path) -> None:
    entries = build(tmp_path, "OCC(C)N", "C/C=C/CO")
    written = export_dataset(tmp_path / "out")
    archive = list(read_archive(tmp_path / "out" / "conformers.npz"))
    shard = read_shard(tmp_path / "out" / "shard.npz")
    assert (written.molecules, written.failures) == (2, 0)
    assert written.conformers == shard.n_confs.sum()
    for k, (entry, molecule) in enumerate(zip(entries, archive, strict=True)):
        assert molecule.smiles == entry.smiles
        assert np.abs(molecule.positions - entry.positions).max() < 0.0011
        assert np.abs(shard.conformers(k) - entry.positions).max() < 0.0011
        assert molecule.energies is not None and molecule.weights is not None
        assert molecule.energies[0] == 0.0 and (np.diff(molecule.energies) >= 0).all()
        assert molecule.weights.sum() == pytest.approx(1.0, abs=1e-6)
        assert molecule.energies == pytest.approx(entry.energies - entry.energies[0], abs=1e-4)


def test_what_cannot_be_made_is_refused_with_a_cause(tmp_path: Path) -> None:
    (tmp_path / "known.smi").write_text("C[C@H](O)CC\n")
    rows = {
        "CCO": None,
        "OCC again": "REPEATED",
        "C1CC": "INVALID_INPUT",
        "[Na+].[Cl-]": "SEVERAL_FRAGMENTS",
        "C[Pt]C": "TRANSITION_METAL",
        "*CC": "UNSUPPORTED_ATOM",
        "CCCCCCCCC": "TOO_LARGE",
        "C[C@@H](O)CC": "EXCLUDED",
    }
    options = {"max_heavy_atoms": 8, "exclude": [tmp_path / "known.smi"]}
    entries = build(tmp_path, *rows, **options)
    assert [entry.cause for entry in entries] == list(rows.values())
    assert all(entry.why for entry in entries[1:])
    assert export_dataset(tmp_path / "out").failures == 7
    table = (tmp_path / "out" / "failures.tsv").read_text().splitlines()
    assert [line.split("\t")[3] for line in table[1:]] == list(rows.values())[1:]


def test_xtb_is_told_charge_and_spin(tmp_path: Path, xtb: Path) -> None:
    one = Recipe(conformers=1, seeds=1, solvent="water", level="loose")
    build(tmp_path, "C[NH3+]", "C[CH2]", recipe=one)
    ion, radical = xtb.read_text().splitlines()
    assert "--chrg 1 --uhf 0" in ion and "--chrg 0 --uhf 1" in radical
    assert "--gfn 2 --opt loose" in ion and "--alpb water" in ion


def test_open_stereo_is_chosen_and_given_stereo_kept(tmp_path: Path) -> None:
    lines = ("CC(F)C(O)C=CC", "C[C@H](F)C(O)CC")
    entries = build(tmp_path, *lines)
    for entry in entries:
        assert unassigned_stereo(mol_from(entry.smiles)) is None
    assert mol_from(entries[1].smiles).HasSubstructMatch(
        Chem.MolFromSmiles("C[C@H](F)C(O)CC"), useChirality=True
    )
    # By the seed alone, whatever else is in the file; another seed may choose another.
    again = build(tmp_path / "b", *reversed(lines))
    assert [e.smiles for e in reversed(again)] == [e.smiles for e in entries]
    other = {
        build(tmp_path / f"s{k}", lines[0], recipe=Recipe(1, 1, seed=k))[0].smiles for k in range(5)
    }
    assert len(other) > 1


@pytest.mark.parametrize(
    ("fake", "cause"),
    [
        ("crash", "PROGRAM_FAILED"),
        ("unconverged", "NOT_CONVERGED"),
        ("cut", "UNREADABLE_OUTPUT"),
        ("break", "BONDS_CHANGED"),
        ("mirror", "STEREO"),
    ],
)
def test_what_goes_wrong_in_xtb_is_counted(
    fake: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTB_FAKE", fake)
    (entry,) = build(tmp_path, "C[C@H](F)Cl", recipe=Recipe(2, 4))
    assert entry.cause == cause and not len(entry.positions)
    assert sum(entry.losses.values()) == entry.drawn == 4


def test_a_calculation_that_takes_too_long_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTB_SLEEP", "20")
    (entry,) = build(tmp_path, "CO", recipe=Recipe(1, 1), timeout=0.2)
    assert entry.cause == "EXCEEDED_TIMEOUT"


def test_the_steps_in_between(tmp_path: Path, xtb: Path) -> None:
    recipe = Recipe(conformers=2, seeds=4, gfnff=True, metadynamics=1.0, runs=2, window=50.0)
    (entry,) = build(tmp_path, "CCCO", recipe=recipe)
    # Two runs of two snapshots each, beside the four seeds.
    assert entry.drawn == 8 and len(entry.positions) + sum(entry.losses.values()) == 8
    calls = xtb.read_text()
    assert calls.count("--metadyn") == 2 and "--gfnff --opt normal" in calls
    assert 2 <= calls.count("--gfn 2 --opt normal") <= 4


def test_without_mmff_parameters_it_is_said(tmp_path: Path) -> None:
    (entry,) = build(tmp_path, "CCB(O)O")
    assert entry.unrelaxed and len(entry.positions)


REAL = shutil.which("xtb")


@pytest.mark.skipif(REAL is None, reason="needs the program xtb: make xtb (the one allowed skip)")
def test_with_the_real_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin" / "xtb").unlink()
    recipe = Recipe(conformers=4, seeds=8, gfnff=True, metadynamics=2.0, runs=1, window=8.0)
    (entry,) = build(tmp_path, "OCCF", recipe=recipe)
    # 2-fluoroethanol has a gauche form with a hydrogen bond, the lowest, and trans forms.
    assert len(entry.positions) >= 3 and len(entry.positions) + sum(entry.losses.values()) == 16
    mol = mol_from(entry.smiles)
    o, c1, c2, f = mol.GetSubstructMatch(Chem.MolFromSmarts("OCCF"))
    angles = []
    for p in entry.positions:
        conformer = Chem.Conformer(len(p))
        conformer.SetPositions(np.ascontiguousarray(p))
        angles.append(abs(Chem.rdMolTransforms.GetDihedralDeg(conformer, o, c1, c2, f)))
    assert angles[0] < 80 and max(angles) > 150
    # A minimum does not move when it is optimised again.
    again = XtbProgram().optimise(mol, entry.positions[0])
    assert again.energy == pytest.approx(entry.energies[0], abs=0.01)
