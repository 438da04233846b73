"""Builds that are killed, stopped, continued or damaged, and what the command line says of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dataset_cases import RECIPE, build

import rdgeodiff.datasets.build
from rdgeodiff.cli import main
from rdgeodiff.data.conformer_sets import read_archive
from rdgeodiff.datasets.build import build_dataset
from rdgeodiff.datasets.export import export_dataset
from rdgeodiff.datasets.journal import NAME, JournalError, read_entries
from rdgeodiff.datasets.recipe import Recipe

CHILD = """
import sys
from pathlib import Path
from rdgeodiff.datasets.build import build_dataset
from rdgeodiff.datasets.recipe import Recipe
source, folder = (Path(p) for p in sys.argv[1:])
build_dataset(source, folder, Recipe(3, 5, window=50.0), jobs=2, progress=False)
"""

pytestmark = pytest.mark.usefixtures("xtb")


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
