"""Screens that are killed, refused, full, torn and interrupted: nothing twice, nothing lost."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import multiprocessing
import os
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest
import screen_child
from rdkit import Chem
from screen_child import library, screen

import rdgeodiff.opening
from rdgeodiff import EmbedMoleculesDiffusion
from rdgeodiff.chem.readers import read_molecules
from rdgeodiff.cli import main
from rdgeodiff.rows import ROW_PROPERTY
from rdgeodiff.screen import ScreenStoppedError, write_failed
from rdgeodiff.screen import run as run_module
from rdgeodiff.screen import shards as shards_module
from rdgeodiff.screen.manifest import Manifest, ManifestError

ROWS = 30


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stand_in in screen_child.fake().items():
        monkeypatch.setattr(rdgeodiff.opening, name, stand_in)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Children start from a process that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["screen_child"])
    return context


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return library(tmp_path / "library.smi", ROWS)


def finished(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()][1:]


def content(folder: Path) -> dict[str, bytes]:
    """Name → unzipped content of each finished shard; everything in the folder is accounted for."""
    lines = finished(folder)
    names = {line["file"] for line in lines}
    assert {p.name for p in folder.iterdir()} - {".lock"} == names | {"manifest.jsonl"}
    for line in lines:
        assert hashlib.sha256((folder / line["file"]).read_bytes()).hexdigest() == line["sha256"]
    return {name: gzip.decompress((folder / name).read_bytes()) for name in sorted(names)}


def keys(folder: Path) -> list[tuple[int, int]]:
    found = []
    for data in content(folder).values():
        supplier = Chem.SDMolSupplier()
        supplier.SetData(data.decode(), removeHs=False)
        found += [
            (m.GetIntProp(ROW_PROPERTY), m.GetIntProp("rdgeodiff_conformer")) for m in supplier
        ]
    return found


def without_time(folder: Path) -> list[dict]:
    return [{**line, "seconds": 0} for line in finished(folder)]


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


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_at_random_it_goes_on_to_the_same_result(
    tmp_path: Path, source: Path, processes: Any
) -> None:
    screen(source, tmp_path / "whole")
    wanted = content(tmp_path / "whole")
    draw = random.Random(11)
    entries = lines_of(tmp_path / "whole" / "manifest.jsonl")
    kills, round_number, partial = 0, 0, 0
    while kills < 24:
        round_number += 1
        folder = tmp_path / f"killed{round_number}"
        while True:
            child = processes.Process(target=screen_child.run, args=(source, folder, 0.002))
            child.start()
            # Some way into the work, however slow the machine; some kills come before it begins.
            manifest, target = folder / "manifest.jsonl", draw.randrange(entries)
            while child.is_alive() and lines_of(manifest) < target and kills < 24:
                time.sleep(0.002)
            child.join(draw.uniform(0.0, 0.02) if kills < 24 else None)
            if child.exitcode is not None:
                assert child.exitcode == 0
                break
            child.kill()
            child.join()
            kills += 1
            partial += (
                0 < len(finished(folder)) < len(wanted)
                if folder.exists()
                and (folder / "manifest.jsonl").exists()
                and (folder / "manifest.jsonl").stat().st_size
                else 0
            )
        assert content(folder) == wanted
        assert without_time(folder) == without_time(tmp_path / "whole")
    # Kills that came before anything was finished prove little.
    assert partial >= 5


def test_killed_at_every_disk_operation(tmp_path: Path, processes: Any) -> None:
    source = library(tmp_path / "library.smi", 8)
    screen(source, tmp_path / "whole")
    wanted = content(tmp_path / "whole")
    number, killed = 1, True
    while killed:
        folder = tmp_path / f"killed{number}"
        child = processes.Process(target=screen_child.run, args=(source, folder, 0.0, number))
        child.start()
        child.join()
        killed = child.exitcode != 0
        for line in Manifest(folder).totals.failures:
            assert line in ("INVALID_INPUT", "NONFINITE")
        screen(source, folder)
        assert content(folder) == wanted
        number += 1
    # Header and two shards: each is written, forced, renamed, forced again and entered.
    assert number > 12


def test_a_torn_manifest_loses_one_shard_and_a_damaged_one_is_refused(
    tmp_path: Path, source: Path
) -> None:
    folder = tmp_path / "out"
    screen(source, folder)
    wanted, path = content(folder), folder / "manifest.jsonl"
    whole = path.read_bytes()
    for cut in (1, 40):
        path.write_bytes(whole[:-cut])
        assert screen(source, folder).resumed == 28
        assert content(folder) == wanted
    path.write_bytes(whole[:30])
    assert screen(source, folder).resumed == 0
    assert content(folder) == wanted
    path.write_bytes(whole.replace(b'"shard": 2', b'"shard" 2'))
    with pytest.raises(ManifestError, match="damaged after byte"):
        screen(source, folder)
    path.write_bytes(whole)
    (folder / "shard-000002.sdf.gz").write_bytes(b"other")
    with pytest.raises(ManifestError, match="000002.*has 5 bytes"):
        screen(source, folder)
    (folder / "shard-000002.sdf.gz").unlink()
    with pytest.raises(ManifestError, match="000002.*is not there"):
        screen(source, folder)


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


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_full_disk_stops_with_finished_shards_intact(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen(source, tmp_path / "whole")
    wanted = content(tmp_path / "whole")
    calls = []

    def full(*args: Any) -> Any:
        calls.append(args)
        if len(calls) >= 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return getattr(os, operation)(*args)

    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "os", SimpleNamespace(**{**vars(os), operation: full}))
        with pytest.raises(ScreenStoppedError, match="No space left.*goes on from there"):
            screen(source, folder)
        done = content(folder)
        assert 1 <= len(done) < len(wanted) and done.items() <= wanted.items()
        call = ["screen", str(source), str(tmp_path / "cli"), "-n", "1", "--quiet", "--shard", "4"]
        assert main(call) == 1
        assert "No space left" in capsys.readouterr().err
    assert screen(source, folder).resumed == 4 * len(done)
    assert content(folder) == wanted


def test_a_failure_that_passes_leaves_no_gap(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = shards_module.write_shard, []

    def once(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.EIO, "flicker")
        return real(*args)

    monkeypatch.setattr(run_module, "write_shard", once)
    with pytest.raises(ScreenStoppedError, match="flicker"):
        screen(source, tmp_path / "out")
    assert list(content(tmp_path / "out")) == ["shard-000000.sdf.gz"]


def test_damaged_input_is_no_shorter_library(tmp_path: Path) -> None:
    smiles = screen_child.SMILES
    lines = "".join(f"{smiles[k % len(smiles)]} n{k}{'x' * (k % 97)}\n" for k in range(3000))
    whole = gzip.compress(lines.encode())
    source = tmp_path / "in.smi.gz"
    source.write_bytes(whole[: len(whole) // 2])
    folder = tmp_path / "out"
    with pytest.raises(ScreenStoppedError, match="the file is damaged here"):
        screen(source, folder, shard=500)
    done = finished(folder)
    assert done and all(line["molecules"] == 500 for line in done)
    assert len(content(folder)) == len(done)
    with pytest.raises(FileNotFoundError):
        screen(tmp_path / "missing.smi", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_ctrl_c_keeps_finished_shards_and_says_so(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Interrupting(screen_child.FakePipeline):
        def sample(self, requests: Any, **how: Any) -> None:
            if any(r.row >= 12 for r in requests):
                super().sample(requests[:2], **how)
                raise KeyboardInterrupt
            super().sample(requests, **how)

    folder = tmp_path / "out"
    call = ["screen", str(source), str(folder), "-n", "2", "--shard", "4", "--seed", "5"]
    with monkeypatch.context() as patch:
        patch.setattr(rdgeodiff.opening, "open_source", lambda settings: Interrupting())
        assert main(call) == 130
    said = capsys.readouterr()
    assert "3 shards, 12 molecules" in said.out and "goes on from here" in said.out
    assert len(content(folder)) == 3
    assert main(call) == 0
    said = capsys.readouterr()
    assert "12 molecules had been finished before" in said.out and f"{ROWS}/{ROWS}" in said.err
    table = str(tmp_path / "failed.tsv")
    assert main([*call, "--quiet", "--strict", "--failed", table]) == 1
    assert len(Path(table).read_text().splitlines()) == 5
    assert main([*call, "--quiet", "--failed", str(tmp_path / "no" / "failed.tsv")]) == 2
    assert len(content(folder)) == 8


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
