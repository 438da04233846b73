"""The property benchmark: averages, errors, counting, resuming, and its command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import mol_from
from rdkit import Chem

from rdgeodiff.cli import main
from rdgeodiff.data.conformer_sets import read_archive
from rdgeodiff.evaluation.generators import EtkdgGenerator, Generated
from rdgeodiff.evaluation.molecule_score import spread_out
from rdgeodiff.evaluation.properties import EnsembleProperties, evaluate_properties
from rdgeodiff.evaluation.quantum import QuantumError, QuantumFailure, SinglePoint

QM9 = Path(__file__).parent.parent / "benchmarks" / "data" / "val_qm9.npz"
RECORDED = Path(__file__).parent / "fixtures" / "quantum"


class Ruler:
    """Energy: the first x in Å times ten. Gap: twice the first y. Nothing of it is chemistry."""

    name, level = "ruler", "Å"

    def __init__(self, broken: float = np.inf, stop_after: int = 10**9) -> None:
        self._broken, self._left, self._lock = broken, stop_after, threading.Lock()

    def single_point(self, mol: Chem.Mol, positions: np.ndarray) -> SinglePoint:
        with self._lock:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
        x, y, _ = positions[0]
        if x > self._broken:
            raise QuantumError("no way", QuantumFailure.NOT_CONVERGED)
        return SinglePoint(10.0 * x, -y, y)


class Shelf:
    """Conformers in which every atom is at (k + 1, k + 2, 0), k = 0, 1, …; none for the last."""

    name = "shelf"

    def __call__(self, mols: Sequence[Chem.Mol], counts: Sequence[int]) -> Iterator[Generated]:
        for row, (mol, count) in enumerate(zip(mols, counts, strict=True)):
            made = count if row + 1 < len(mols) else 0
            places = np.array([[k + 1.0, k + 2.0, 0.0] for k in range(made)]).reshape(-1, 1, 3)
            positions = np.repeat(places, mol.GetNumAtoms(), 1)
            notes = {} if made else {"missing STEREO": count}
            yield Generated(positions, count, 0.0, notes=notes)


def test_averages_by_hand() -> None:
    points = [SinglePoint(-10.0, -6.0, 1.0), SinglePoint(-13.0, -5.0, 3.0)]
    found = EnsembleProperties.of([*points, SinglePoint(-11.5, -6.0, 0.0)])
    assert found == EnsembleProperties(
        energy_mean=-11.5, energy_min=-13.0, gap_mean=7.0, gap_min=6.0, gap_max=8.0
    )
    one = EnsembleProperties.of(points[:1])
    assert one == EnsembleProperties(-10.0, -10.0, 7.0, 7.0, 7.0)
    assert found.error(one) == one.error(found) == EnsembleProperties(1.5, 3.0, 0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="without a single point"):
        EnsembleProperties.of([])


@pytest.mark.parametrize("jobs", [1, 4])
def test_errors_are_against_the_references_and_nothing_is_lost(jobs: int) -> None:
    report = evaluate_properties(
        QM9,
        [Shelf()],
        Ruler(broken=2.5),  # Å: the third conformer of four cannot be computed, nor the fourth
        conformers=4,
        molecules=3,
        jobs=jobs,
        progress=False,
    )
    references = spread_out(list(read_archive(QM9)), 3)
    assert [m.smiles for m in report.molecules] == [r.smiles for r in references]
    first = report.molecules[0]
    # x = 1, 2 and y = 2, 3 give energies 10, 20 and gaps 4, 6.
    made = first.methods["shelf"]
    assert made.properties == EnsembleProperties(15.0, 10.0, 5.0, 4.0, 6.0)
    assert (made.requested, made.delivered, made.computed) == (4, 4, 2)
    assert made.notes == {"not computed NOT_CONVERGED": 2} and made.error == "no way"
    # At most as many references as conformers, each of them one of the archive's.
    assert first.reference.delivered == 4
    every = sorted(10.0 * references[0].positions[:, 0, 0])
    assert every[0] <= first.reference.properties.energy_min <= every[-4]

    summary = report.summary("shelf")
    assert (summary["molecules"], summary["without_result"]) == (2, 1)
    errors = [m.error("shelf") for m in report.molecules]
    assert errors[2] is None
    for name in ("energy_mean", "energy_min", "gap_mean", "gap_min", "gap_max"):
        values = [
            abs(
                getattr(m.methods["shelf"].properties, name) - getattr(m.reference.properties, name)
            )
            for m in report.molecules[:2]
        ]
        assert summary[name]["mean"] == pytest.approx(np.mean(values))
        assert summary[name]["median"] == pytest.approx(np.median(values))
    assert (summary["requested"], summary["delivered"], summary["computed"]) == (12, 8, 4)
    assert summary["notes"] == {"missing STEREO": 4, "not computed NOT_CONVERGED": 4}
    text = report.to_markdown()
    assert "4 of 12" in text and "missing STEREO 4" in text and "NOT_CONVERGED 4" in text
    assert "molecules without a result, not in the errors 1" in text
    assert "| GeoDiff | 0.2574 | 0.1550 | 0.1758 | 0.7032 | 0.1039 |" in text
    assert json.loads(json.dumps(report.to_dict()))["summary"]["shelf"] == summary


def test_references_drawn_repeat_with_the_seed() -> None:
    def means(seed: int) -> list[float]:
        report = evaluate_properties(
            QM9, [], Ruler(), conformers=2, molecules=4, seed=seed, progress=False
        )
        return [m.reference.properties.energy_mean for m in report.molecules]

    assert means(1) == means(1) != means(2)


def test_all_references_are_taken_where_there_are_few() -> None:
    report = evaluate_properties(QM9, [], Ruler(), conformers=50, molecules=2, progress=False)
    references = spread_out(list(read_archive(QM9)), 2)
    for found, reference in zip(report.molecules, references, strict=True):
        assert found.reference.computed == len(reference.positions) < 50
        mean = 10.0 * reference.positions[:, 0, 0].mean()
        assert found.reference.properties.energy_mean == pytest.approx(mean)


def test_an_interrupted_run_reports_whole_molecules() -> None:
    report = evaluate_properties(
        QM9, [Shelf()], Ruler(stop_after=10), conformers=3, molecules=3, progress=False
    )
    # Three references and three made of each molecule: the second is not finished.
    assert report.interrupted and len(report.molecules) == 1
    assert report.molecules[0].methods["shelf"].computed == 3
    assert "interrupted" in report.to_markdown()


def test_nothing_computed_is_a_dash_and_not_a_zero() -> None:
    report = evaluate_properties(
        QM9, [EtkdgGenerator()], Ruler(broken=-1e9), conformers=1, molecules=1, progress=False
    )
    assert report.summary("etkdg")["energy_mean"] == {"mean": None, "median": None}
    assert "| etkdg | –/– | –/– | –/– | –/– | –/– | 0 | 0 of 1 |" in report.to_markdown()


def _fake_xtb(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "xtb").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "xtb").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fake_xtb(tmp_path / "bin", f'cp "{RECORDED}/xtb_water.json" xtbout.json', monkeypatch)
    out, cache = tmp_path / "out.json", tmp_path / "cache.jsonl"
    call = ["evaluate-properties", str(QM9), "--molecules", "2", "--conformers", "2", "--quiet"]
    call += ["--methods", "etkdg", "--jobs", "2", "--cache", str(cache), "--out", str(out)]
    assert main(call) == 0
    text = capsys.readouterr().out
    assert "2 molecules, xtb (GFN2-xTB), 2 conformers each" in text and "4 of 4" in text
    data = json.loads(out.read_text())
    assert data["summary"]["etkdg"]["gap_max"]["mean"] == 0.0  # the same output for all
    assert len(data["molecules"]) == 2 and data["level"] == "GFN2-xTB"
    # Everything is in the cache: the program is not needed again.
    _fake_xtb(tmp_path / "bin", "exit 1", monkeypatch)
    assert main(call) == 0 and "4 of 4" in capsys.readouterr().out


def test_terminated_it_leaves_no_calculation_running(tmp_path: Path) -> None:
    folder, began = tmp_path / "bin", tmp_path / "began"
    folder.mkdir()
    # A program with a child of its own, both of which would run on for a minute.
    (folder / "xtb").write_text(f'#!/bin/sh\nsleep 60 &\necho $$ $! > "{began}"\nwait\n')
    (folder / "xtb").chmod(0o755)
    call = ["evaluate-properties", str(QM9), "--molecules", "1", "--conformers", "1", "--quiet"]
    run = subprocess.Popen(
        [sys.executable, "-m", "rdgeodiff", *call, "--methods", "etkdg", "--jobs", "1"],
        env=os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while not (began.exists() and began.read_text().endswith("\n")):
            assert run.poll() is None
            time.sleep(0.05)
        run.terminate()
        out, _ = run.communicate(timeout=30)
    finally:
        run.kill()
    assert run.returncode == 130 and "interrupted: not all molecules are in" in out
    for pid in map(int, began.read_text().split()):
        _wait_until_gone(pid)


def _wait_until_gone(pid: int) -> None:
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":  # dead, and nobody has asked for its status yet
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} runs on")


def test_command_without_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["evaluate-properties", str(QM9), "--program", "psi4", "--methods", "etkdg"]) == 2
    told = capsys.readouterr().err
    assert "make psi4" in told and "Traceback" not in told


def test_generated_hydrogens_are_part_of_the_calculation() -> None:
    seen: list[int] = []

    class Looking(Ruler):
        def single_point(self, mol: Chem.Mol, positions: np.ndarray) -> SinglePoint:
            seen.append(len(positions))
            assert mol.GetNumAtoms() == len(positions)
            return super().single_point(mol, positions)

    evaluate_properties(
        QM9, [EtkdgGenerator()], Looking(), conformers=1, molecules=1, progress=False
    )
    atoms = mol_from(next(read_archive(QM9)).smiles).GetNumAtoms()
    assert seen == [atoms, atoms]
