"""SMILES in, checked conformers out: nothing lost on the way, and a kill changes nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_xtb
import numpy as np
import pytest
from helpers import embedded, mol_from, positions_of
from rdkit import Chem

import rdgeodiff.embed
from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.chem.stereo import unassigned_stereo
from rdgeodiff.chem.xtb import BondGraph, XtbProgram
from rdgeodiff.cli import main
from rdgeodiff.data.conformer_sets import read_archive
from rdgeodiff.data.shards import read_shard
from rdgeodiff.datasets.build import build_dataset
from rdgeodiff.datasets.export import export_dataset
from rdgeodiff.datasets.journal import NAME, Entry, JournalError, read_entries
from rdgeodiff.datasets.recipe import Recipe
from rdgeodiff.datasets.seeds import DiffusionSeeds, EtkdgSeeds
from rdgeodiff.datasets.selection import boltzmann_weights, distinct, spread

RECIPE = Recipe(conformers=3, seeds=5, window=50.0)


@pytest.fixture(autouse=True)
def xtb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake program, in front of a real one; the file its calls are written to."""
    monkeypatch.setenv("PATH", str(fake_xtb.install(tmp_path / "bin")), prepend=os.pathsep)
    monkeypatch.setenv("XTB_LOG", str(tmp_path / "calls"))
    return tmp_path / "calls"


def build(folder: Path, *lines: str, recipe: Recipe = RECIPE, **options) -> list[Entry]:
    """Entries by row of a build of `lines`."""
    folder.mkdir(exist_ok=True)
    source = folder / "in.smi"
    source.write_text("".join(f"{line}\n" for line in lines))
    build_dataset(source, folder / "out", recipe, progress=False, **options)
    return sorted(read_entries(folder / "out"), key=lambda entry: entry.row)


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


def test_a_recipe_without_xtb_takes_nothing_of_it() -> None:
    with pytest.raises(ValueError, match="xtb's"):
        Recipe(method="mmff94s", gfnff=True)


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


@pytest.mark.parametrize("other", [{"gfnff": True}, {"method": "mmff94s"}, {"method": "gfnff"}])
def test_straight_and_a_force_field_contradict_each_other(other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="straight"):
        Recipe(straight=True, **other)


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


CHILD = """
import sys
from pathlib import Path
from rdgeodiff.datasets.build import build_dataset
from rdgeodiff.datasets.recipe import Recipe
source, folder = (Path(p) for p in sys.argv[1:])
build_dataset(source, folder, Recipe(3, 5, window=50.0), jobs=2, progress=False)
"""


@pytest.mark.slow
def test_killed_and_continued_it_is_the_same(tmp_path: Path) -> None:
    lines = [f"{'C' * (k % 4 + 1)}{'C(F)' * (k // 4)}O m{k}" for k in range(12)]
    build(tmp_path, *lines)
    export_dataset(tmp_path / "out")
    source, folder = tmp_path / "in.smi", tmp_path / "killed"
    environment = {**os.environ, "XTB_SLEEP": "0.05", "OMP_NUM_THREADS": "1"}
    for stage in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(source), str(folder)], env=environment
        )
        settled = 1 + 4 * (stage + 1)
        while child.poll() is None and _lines(folder / NAME) < settled:
            time.sleep(0.01)
        assert child.poll() is None, "it was over before it could be killed"
        child.send_signal(signal.SIGKILL)
        child.wait()
        # What a power cut leaves.
        with open(folder / NAME, "ab") as stream:
            stream.write(b'{"row": 11, "na' if stage else b"")
        export_dataset(folder)
    report = build_dataset(source, folder, RECIPE, progress=False)
    assert 8 <= report.resumed < 12 and report.totals.molecules == 12
    assert not (folder / ".scratch").exists()
    export_dataset(folder)
    for name in ("conformers.npz", "shard.npz", "failures.tsv"):
        assert (folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_folder_of_another_build_is_refused(tmp_path: Path) -> None:
    build(tmp_path, "CO")
    with pytest.raises(JournalError, match="conformers was 3 and is 2"):
        build(tmp_path, "CO", recipe=Recipe(2, 5, window=50.0))
    with pytest.raises(JournalError, match="input_sha256"):
        build(tmp_path, "CN")
    (tmp_path / "out" / NAME).write_text("something else\n")
    with pytest.raises(JournalError, match="holds no build"):
        export_dataset(tmp_path / "out")


def test_damage_is_named(tmp_path: Path) -> None:
    build(tmp_path, "CO", "CN")
    journal = tmp_path / "out" / NAME
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], lines[1][:-9] + '"}', lines[2]]) + "\n")
    with pytest.raises(JournalError, match="line 2 is damaged"):
        list(read_entries(tmp_path / "out"))


def test_command_line_with_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.smi").write_text("CO a\nCCO b\nC1CC bad\n")
    out = str(tmp_path / "out")
    call = ["dataset", "build", str(tmp_path / "in.smi"), out, "--conformers", "2", "--quiet"]
    assert main([*call, "--budget", "0"]) == 0
    said = capsys.readouterr().out
    assert "not finished" in said and "0 conformers" in said
    assert main([*call, "--jobs", "2"]) == 0
    assert "2 of 3 molecules with" in capsys.readouterr().out
    assert main(["dataset", "export", out, "--archive", str(tmp_path / "a.npz")]) == 0
    assert len(list(read_archive(tmp_path / "a.npz"))) == 2
    assert main([*call, "--window", "-1"]) == 2


def test_without_xtb_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "in.smi").write_text("CO\n")
    assert main(["dataset", "build", str(tmp_path / "in.smi"), str(tmp_path / "out")]) == 2
    assert "apt-get install xtb" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_keeps_what_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = rdgeodiff.datasets.build.Journal.append

    def interrupted(self, entry):
        append(self, entry)
        if len(self.rows) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("rdgeodiff.datasets.build.Journal.append", interrupted)
    (tmp_path / "in.smi").write_text("C\nCC\nCCC\nCO\n")
    report = build_dataset(tmp_path / "in.smi", tmp_path / "out", RECIPE, progress=False)
    assert report.interrupted and report.totals.molecules == 2
    assert len(list(read_entries(tmp_path / "out"))) == 2


def test_the_same_conformer_is_kept_once() -> None:
    mol = embedded("CCCCO", 6)
    positions = list(positions_of(mol))
    turned = positions[0] @ np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]) + 3.0
    energies = np.array([1.0, 1.01, 3.0])
    assert distinct(mol, [positions[0], turned, positions[1]], energies) == [0, 2]
    # Another energy is another conformer, wherever its heavy atoms are.
    assert distinct(mol, [positions[0], turned], np.array([1.0, 1.2])) == [0, 1]
    # The lower of two equal ones stays.
    assert distinct(mol, [positions[0], turned], np.array([1.03, 1.0])) == [1]


def test_spread_goes_to_the_furthest_first() -> None:
    mol = embedded("CCCCCCO", 5)
    positions = list(positions_of(mol))
    order = spread(mol, [positions[0], positions[0] + 0.01, *positions[1:]])
    assert sorted(order) == list(range(6)) and order[0] == 0 and order[-1] == 1
    assert spread(mol, []) == []


def test_boltzmann_weights() -> None:
    # RT ln 10 at 298.15 K is 1.3643 kcal/mol.
    assert boltzmann_weights(np.array([-5.0, -5.0 + 1.36427])) == pytest.approx(
        [10 / 11, 1 / 11], rel=1e-4
    )
    assert boltzmann_weights(np.zeros(0)).shape == (0,)


def test_bonds_broken_and_made() -> None:
    mol = embedded("C1C2CC1C2", 1)
    positions, bonds = positions_of(mol)[0], BondGraph(mol)
    assert bonds.holds(positions)
    away, near = positions.copy(), positions.copy()
    away[-1] *= 2.0
    near[-1] = near[0] + (0.9, 0.9, 0.0)
    assert not bonds.holds(away) and not bonds.holds(near)


def test_seeds_depend_on_molecule_and_seed_alone() -> None:
    mol = mol_from("CCCO")
    one, again, other = (EtkdgSeeds().draw(mol, 3, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], one[1]) and not np.array_equal(one[0], other[0])
    assert EtkdgSeeds().draw(mol, 2, 2**31 - 1)


def test_seeds_from_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def draw(mol, count, **options):
        calls.append((count, options))
        for conformer in embedded("CO", count).GetConformers():
            mol.AddConformer(conformer, assignId=True)

    monkeypatch.setattr(rdgeodiff.embed, "EmbedMoleculeDiffusion", draw)
    mol = mol_from("CO")
    assert len(DiffusionSeeds("mine.json").draw(mol, 2, 9)) == 2
    assert calls == [(2, {"randomSeed": 9, "model": "mine.json"})] and not mol.GetNumConformers()


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
