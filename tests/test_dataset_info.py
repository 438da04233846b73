"""What a data set is made of, and whether two of them share molecules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import embedded, positions_of

from rdgeodiff.cli import main
from rdgeodiff.data.conformer_sets import ReferenceMolecule, featurize_archive, write_archive
from rdgeodiff.datasets.spread import find_leaks, read_facts
from rdgeodiff.datasets.tables import markdown


def archive(path: Path, *smiles: str, energies: bool = True) -> Path:
    """An archive with two conformers of each molecule, 1.5 kcal/mol apart."""
    molecules = []
    for text in smiles:
        mol = embedded(text, 2)
        known = np.array([0.0, 1.5]) if energies else None
        molecules.append(ReferenceMolecule(text, mol, positions_of(mol), known))
    write_archive(path, molecules)
    return path


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Two sets that share a graph with another hand."""
    one = archive(tmp_path / "one.npz", "C[C@H](O)F", "CCCCO", "CC(=O)[O-]", "CO")
    other = archive(tmp_path / "other.npz", "C[C@@H](O)F", "C1CCCCCCCCCCC1", energies=False)
    return one, other


def test_facts(sets: tuple[Path, Path]) -> None:
    one, other = (read_facts(path) for path in sets)
    data = one.to_dict()
    assert (data["molecules"], data["conformers"], data["repeated_graphs"]) == (4, 8, 0)
    assert one.elements == {"C": 4, "H": 4, "O": 4, "F": 1}
    assert data["charges"] == {"-1": 1, "0": 3}
    assert one.rotatable == [0, 2, 0, 0] and one.centers == [1, 0, 0, 0]
    assert data["spreads"]["energy_spread"]["mean"] == pytest.approx(1.5)
    expected = {"mean": 3.75, "min": 2, "5%": 2.3, "median": 4, "95%": 4.85, "max": 5}
    assert data["spreads"]["heavy"] == pytest.approx(expected)
    assert other.largest_ring == [0, 12] and other.to_dict()["macrocycles"] == 1
    assert other.to_dict()["spreads"]["energy_spread"] is None


def test_leaks_are_found_whatever_the_stereo_and_the_format(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    shard = tmp_path / "shard.npz"
    featurize_archive(sets[0], shard, progress=False)
    facts = [read_facts(path) for path in (*sets, shard)]
    leaks = find_leaks(facts)
    assert [leak.shared for leak in leaks] == [1, 4, 1]
    assert leaks[0].examples == ("CC(O)F",) and leaks[0].molecules == (1, 1)
    text = markdown(facts, leaks)
    assert "| one.npz | other.npz | 1 | 1 and 1 | `CC(O)F` |" in text
    assert "-1: 1, 0: 3" in text and "Macrocycles: 1." in text


def test_repeated_graphs_are_counted(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", "C[C@H](O)F", "C[C@@H](O)F", "CO")
    assert read_facts(path).repeated == 1


def test_command_line(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "info.json", tmp_path / "info.png"
    call = ["dataset", "info", *map(str, sets), "--quiet"]
    assert main([*call, "--out", str(out), "--plot", str(plot)]) == 0
    assert "### one.npz: 4 molecules, 8 conformers" in capsys.readouterr().out
    data = json.loads(out.read_text())
    assert [s["name"] for s in data["sets"]] == ["one.npz", "other.npz"]
    assert data["leaks"][0]["shared"] == 1
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main([*call, "--strict"]) == 1
    assert main(["dataset", "info", str(sets[0]), "--strict", "--quiet"]) == 0
