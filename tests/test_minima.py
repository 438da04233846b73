"""The benchmark programs that ask GFN2-xTB about minima, with a stand-in for xtb."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import fake_xtb
import numpy as np
import pytest
from helpers import embedded, positions_of

from rdgeodiff.data.conformer_sets import ReferenceMolecule, read_archive, write_archive

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def program(name: str) -> ModuleType:
    """The module of a benchmark program."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where data classes look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two molecules with a reference each; xtb leaves geometries as they are."""
    monkeypatch.setenv("PATH", str(fake_xtb.install(tmp_path / "bin")), prepend=os.pathsep)
    monkeypatch.setenv("XTB_LOG", str(tmp_path / "calls"))
    molecules = []
    for smiles in ("OCC(O)CCN", "OCC(F)CCN"):
        mol = embedded(smiles, 1)
        positions = positions_of(mol)
        mol.RemoveAllConformers()
        molecules.append(ReferenceMolecule(smiles, mol, positions, np.zeros(1)))
    path = tmp_path / "references.npz"
    write_archive(path, molecules)
    return path


def test_minima_join_the_references_and_a_second_call_goes_on(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out, widen = tmp_path / "wide.npz", program("widen_references")
    words = [str(archive), str(out), "--count", "4", "--seeds", "9", "--window", "1e9"]
    monkeypatch.setattr("sys.argv", ["widen_references.py", *words])
    widen.main()
    calls = (tmp_path / "calls").read_text().count("--opt")
    # Of each molecule the reference and the seeds.
    assert calls == 2 * (1 + 4)
    for molecule in read_archive(out):
        assert len(molecule.positions) == 5
        assert molecule.energies is not None
        assert molecule.energies[0] == 0 and (np.diff(molecule.energies) >= 0).all()
    # A part that is there is not made again, one that is missing is.
    (tmp_path / "wide.parts" / "1.npz").unlink()
    before = out.read_bytes()
    widen.main()
    assert (tmp_path / "calls").read_text().count("--opt") == calls + 1 + 4
    assert out.read_bytes() == before


@pytest.mark.parametrize(("fake", "share"), [("", "100"), ("break", "0")])
def test_what_does_not_move_is_a_minimum_and_what_breaks_is_none(
    fake: str,
    share: str,
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("XTB_FAKE", fake)
    words = [str(archive), "--count", "3", "--methods", "etkdg", "--window", "1e9"]
    monkeypatch.setattr("sys.argv", ["minima.py", *words])
    program("minima").main()
    row = capsys.readouterr().out.splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["etkdg", "6"]
    assert cells[3] == cells[4] == cells[6] == share
    assert ("BONDS_CHANGED" in row) == bool(fake)
