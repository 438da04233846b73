"""Screens: every row is accounted for, none is read far ahead, and other runs are refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import filelock
import pytest
import screen_child
from rdkit import Chem
from screen_child import library, screen
from screen_folders import ROWS, content, finished

from rdgeodiff import EmbedMoleculesDiffusion
from rdgeodiff.chem.readers import read_molecules
from rdgeodiff.rows import ROW_PROPERTY
from rdgeodiff.screen import run as run_module
from rdgeodiff.screen import shards as shards_module
from rdgeodiff.screen import write_failed
from rdgeodiff.screen.manifest import ManifestError

pytestmark = pytest.mark.usefixtures("scripted_network")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return library(tmp_path / "library.smi", ROWS)


def keys(folder: Path) -> list[tuple[int, int]]:
    found = []
    for data in content(folder).values():
        supplier = Chem.SDMolSupplier()
        supplier.SetData(data.decode(), removeHs=False)
        found += [
            (m.GetIntProp(ROW_PROPERTY), m.GetIntProp("rdgeodiff_conformer")) for m in supplier
        ]
    return found


def test_every_row_is_accounted_for(tmp_path: Path, source: Path) -> None:
    totals = screen(source, tmp_path / "out").totals
    assert totals.molecules == ROWS and totals.shards == 8 and totals.requested == 2 * ROWS
    assert totals.conformers + sum(totals.failures.values()) == totals.requested
    assert totals.failures == {"INVALID_INPUT": 2, "NONFINITE": 6}
    lines = finished(tmp_path / "out")
    assert [line["rows"] for line in lines[-2:]] == [[24, 28], [28, 30]]
    lacking = {row[0]: row for line in lines for row in line["lacking"]}
    assert sorted(lacking) == [3, 5, 16, 27]
    assert lacking[3][1:4] == ["m3", "C1CC", 0] and "SMILES" in lacking[3][4]
    assert lacking[16][4] == "NONFINITE 2"
    expected = [(k, c) for k in range(ROWS) if k not in lacking for c in (0, 1)]
    assert keys(tmp_path / "out") == expected
    assert write_failed(tmp_path / "out", tmp_path / "failed.tsv") == 4
    table = [line.split("\t") for line in (tmp_path / "failed.tsv").read_text().splitlines()]
    assert table[0][0] == "row" and {len(line) for line in table} == {6}
    assert table[1][:5] == ["3", "m3", "C1CC", "0", "2"]


def test_a_row_gets_what_one_call_over_the_library_gives_it(tmp_path: Path, source: Path) -> None:
    screen(source, tmp_path / "whole")
    screen(source, tmp_path / "slice", rows=(8, 20))
    assert (
        list(content(tmp_path / "slice").values())
        == list(content(tmp_path / "whole").values())[2:5]
    )
    mols = [r.mol for r in read_molecules(source)]
    EmbedMoleculesDiffusion(mols, 2, screen_child.settings())
    whole = "".join(data.decode() for data in content(tmp_path / "whole").values())
    supplier = Chem.SDMolSupplier()
    supplier.SetData(whole, removeHs=False)
    for written in supplier:
        mol = mols[written.GetIntProp(ROW_PROPERTY)]
        expected = mol.GetConformer(written.GetIntProp("rdgeodiff_conformer")).GetPositions()
        assert abs(written.GetConformer().GetPositions() - expected).max() < 1e-4


@pytest.mark.parametrize(
    "change",
    [{"steps": 3}, {"shard": 5}, {"randomSeed": 6}, {"rows": (0, 9)}, {"add_hs": False}],
    ids=lambda change: next(iter(change)),
)
def test_other_parameters_are_refused(tmp_path: Path, source: Path, change: dict) -> None:
    folder = tmp_path / "out"
    screen(source, folder, rows=(0, 8))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ManifestError, match=f"{next(iter(change))} was .* and is "):
        screen(source, folder, **{"rows": (0, 8), **change})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_another_input_is_refused_and_another_name_is_not(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "out"
    screen(source, folder)
    moved = source.rename(tmp_path / "renamed.smi")
    assert screen(moved, folder).resumed == ROWS
    moved.write_text(moved.read_text().replace("CO m0", "CS m0"))
    with pytest.raises(ManifestError, match="input.sha256 was"):
        screen(moved, folder)


def test_a_new_seed_is_kept_for_the_folder(tmp_path: Path, source: Path) -> None:
    screen(source, tmp_path / "out", randomSeed=-1)
    seed = json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[0])[
        "settings"
    ]["randomSeed"]
    assert seed >= 0 and screen(source, tmp_path / "out", randomSeed=-1).resumed == ROWS
    assert screen(source, tmp_path / "out", randomSeed=seed).resumed == ROWS


def test_two_processes_do_not_share_a_folder(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with filelock.FileLock(folder / ".lock"), pytest.raises(ManifestError, match="another process"):
        screen(source, folder)
    assert screen(source, folder).totals.molecules == ROWS


def test_the_input_is_never_read_far_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = library(tmp_path / "library.smi", 200)
    taken, ahead = [], []

    def watched(*args: Any, **how: Any) -> Any:
        for record in read_molecules(*args, **how):
            taken.append(record.row)
            yield record

    real = shards_module.write_shard

    def slow(folder: Path, shard: Any, *rest: Any) -> dict:
        time.sleep(0.005)
        ahead.append(len(taken) - shard.first)
        return real(folder, shard, *rest)

    monkeypatch.setattr(run_module, "read_molecules", watched)
    monkeypatch.setattr(run_module, "write_shard", slow)
    screen(source, tmp_path / "out")
    assert len(taken) == 200 and max(ahead) <= 6 * 4


def test_parquet_shards_hold_every_row(tmp_path: Path, source: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    screen(source, tmp_path / "out", kind="parquet")
    tables = [parquet.read_table(p) for p in sorted((tmp_path / "out").glob("*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["name"] for row in rows] == [f"m{k}" for k in range(ROWS)]
    mol = Chem.Mol(rows[0]["ROMol"])
    assert mol.GetNumConformers() == 2 and mol.GetIntProp(ROW_PROPERTY) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "pdb"}, {"shard": 0}, {"rows": (9, 3)}, {"timeout": 3}, {"coordMap": {0: (0, 0, 0)}}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_wrong_calls_raise(tmp_path: Path, source: Path, wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        screen(source, tmp_path / "out", **wrong)
    assert not list((tmp_path / "out").glob("shard*"))
