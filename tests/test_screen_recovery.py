"""Screens that are killed, full, torn and interrupted: nothing twice, nothing lost."""

from __future__ import annotations

import errno
import gzip
import multiprocessing
import os
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import screen_child
from screen_child import library, screen
from screen_folders import ROWS, content, finished

import rdgeodiff.opening
from rdgeodiff.cli import main
from rdgeodiff.screen import ScreenStoppedError
from rdgeodiff.screen import run as run_module
from rdgeodiff.screen import shards as shards_module
from rdgeodiff.screen.manifest import Manifest, ManifestError

pytestmark = pytest.mark.usefixtures("scripted_network")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return library(tmp_path / "library.smi", ROWS)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Children start from a process that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["screen_child"])
    return context


def without_time(folder: Path) -> list[dict]:
    return [{**line, "seconds": 0} for line in finished(folder)]


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
