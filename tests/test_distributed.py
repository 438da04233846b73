"""Work on a local Ray: as one process does it, whoever dies, and nothing lost."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import screen_child
from rdkit import Chem

from rdgeodiff import EmbedMoleculesDiffusion
from rdgeodiff.chem.parquet import mol_from_bytes
from rdgeodiff.chem.readers import read_molecules
from rdgeodiff.cli import main
from rdgeodiff.distributed import embed_dataset, screen_on_ray
from rdgeodiff.distributed import screen as screen_module
from rdgeodiff.distributed.cluster import workers_of
from rdgeodiff.distributed.library import Library, count_records, files_of
from rdgeodiff.screen import ScreenStoppedError

ROWS = 30
# What Ray itself warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers and a core for reading and writing."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    with pytest.MonkeyPatch.context() as patch:
        # Workers import the actors of ray_child and the functions of the example.
        here = Path(__file__).parent
        folders = (str(here), str(here.parent / "examples"), *sys.path)
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            num_cpus=3,
            object_store_memory=100 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        yield ray
        ray.shutdown()


@pytest.fixture
def scripted(
    cluster: Any, scripted_network: None, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The network is a script, here and in the workers."""
    import ray_child

    monkeypatch.setattr(screen_module, "ShardActor", ray_child.ScriptedActor)
    return monkeypatch


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return screen_child.library(tmp_path / "library.smi", ROWS)


def on_ray(source: Path, folder: Path, **options: Any) -> Any:
    """The call of `screen_child.screen`, with two workers."""
    call = {"shard": 4, "progress": False, "randomSeed": 5, "maxIterations": 3, "kind": "sdf.gz"}
    return screen_on_ray(source, folder, 2, **{**call, "workers": 2, **options})


def content(folder: Path) -> tuple[list[dict], dict[str, bytes]]:
    """Manifest without times, and the shards; there is nothing else in the folder."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    found = {p.name for p in folder.iterdir()} - {".lock", "manifest.jsonl"}
    assert found == {line["file"] for line in lines[1:]}
    plain = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return plain, {n: gzip.decompress((folder / n).read_bytes()) for n in sorted(found)}


def test_two_workers_leave_what_one_process_leaves(
    tmp_path: Path, source: Path, scripted: pytest.MonkeyPatch
) -> None:
    import ray_child

    rows = (2, 29)
    screen_child.screen(source, tmp_path / "one", rows=rows)
    wanted = content(tmp_path / "one")
    totals = on_ray(source, tmp_path / "many", rows=rows).totals
    assert content(tmp_path / "many") == wanted
    assert totals.molecules == 27 and totals.failures == {"INVALID_INPUT": 2, "NONFINITE": 6}
    # Either goes on with what the other began; what a worker had that died is done by another.
    scripted.setattr(screen_module, "ShardActor", ray_child.DyingActor)
    for folder, other in [("many", screen_child.screen), ("one", on_ray)]:
        manifest = tmp_path / folder / "manifest.jsonl"
        lines = manifest.read_bytes().splitlines(keepends=True)
        manifest.write_bytes(b"".join(lines[:3]))
        if other is on_ray:
            # Finished before the one before it, and written down.
            early = tmp_path / folder / "shard-000004.sdf.gz"
            (tmp_path / folder / ".waiting.jsonl").write_bytes(lines[5] + lines[6][:20])
            made = early.stat().st_mtime_ns
        assert other(source, tmp_path / folder, rows=rows).resumed == (12 if other is on_ray else 8)
        assert content(tmp_path / folder) == wanted
    assert early.stat().st_mtime_ns == made and (tmp_path / "one.died").exists()
    assert on_ray(source, tmp_path / "one", rows=rows).resumed == 27


def test_what_cannot_go_on_stops_with_finished_shards_intact(
    tmp_path: Path, source: Path, scripted: pytest.MonkeyPatch
) -> None:
    import ray_child

    scripted.setattr(screen_module, "ShardActor", ray_child.PoisonedActor)
    scripted.setattr(screen_module, "_TRIES", 1)
    folder = tmp_path / "many"
    why = "rows 16 to 23: workers that died of them: 1. .* goes on from there"
    with pytest.raises(ScreenStoppedError, match=why):
        on_ray(source, folder, workers=1)
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    assert 1 <= len(lines) <= 5
    screen_child.screen(source, tmp_path / "one")
    assert screen_child.screen(source, folder).resumed == 4 * (len(lines) - 1)
    for path in folder.glob(".unit-*.tries"):
        path.unlink()
    assert content(folder) == content(tmp_path / "one")


def test_units_are_runs_of_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = screen_module._parts
    assert parts([], 2) == []
    assert parts([3, 4, 6], 2) == [[3], [4], [6]]
    assert parts([*range(5, 21), 30], 2) == [[k, k + 1] for k in range(5, 21, 2)] + [[30]]
    assert max(map(len, parts(list(range(1000)), 2))) == 8
    monkeypatch.setattr(screen_module, "_UNITS", 10)
    assert [len(p) for p in parts(list(range(1000)), 2)] == [100] * 10


def test_a_dataset_keeps_its_rows_and_gets_what_one_call_gives(
    tmp_path: Path, cluster: Any
) -> None:
    smiles = ["CO", "C1CC", "CCN", None, "[Se]=C", "C=O", "CC"]
    table = [{"smiles": s, "row": k, "batch": f"b{k}"} for k, s in enumerate(smiles)]
    # In another order and in three pieces: the number decides, not the place.
    pieces = cluster.data.from_items(table[::-1], override_num_blocks=3)
    done = embed_dataset(pieces, 2, workers=2, batch=2, randomSeed=9, maxIterations=3)
    done.write_parquet(str(tmp_path / "out"))
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(tmp_path / "out").to_pylist()
    rows.sort(key=lambda row: row["row"])
    assert [(r["smiles"], r["batch"]) for r in rows] == [(t["smiles"], t["batch"]) for t in table]
    assert [r["delivered"] for r in rows] == [2, 0, 2, 0, 0, 2, 2]
    assert [json.loads(r["failures"]) for r in rows[:5]] == [
        {},
        {"INVALID_INPUT": 2},
        {},
        {"INVALID_INPUT": 2},
        {"UNSUPPORTED_ATOM": 2},
    ]
    assert "not a SMILES" in rows[1]["error"] and "empty" in rows[3]["error"]
    assert "Se" in rows[4]["error"] and rows[0]["error"] is None
    mols = [Chem.MolFromSmiles(s or "C1CC") for s in smiles]
    mols = [None if m is None else Chem.AddHs(m) for m in mols]
    EmbedMoleculesDiffusion(mols, 2, randomSeed=9, maxIterations=3)
    for row, mol in zip(rows, mols, strict=True):
        if row["delivered"]:
            made = mol_from_bytes(row["ROMol"])
            for a, b in zip(made.GetConformers(), mol.GetConformers(), strict=True):
                np.testing.assert_allclose(a.GetPositions(), b.GetPositions(), atol=1e-3)
    files = list((tmp_path / "out").glob("*.parquet"))
    assert sum(r.mol is not None for f in files for r in read_molecules(f)) == 5


def test_row_numbers_are_asked_for(cluster: Any) -> None:
    pieces = cluster.data.from_items([{"smiles": "CO"}])
    with pytest.raises(ValueError, match="no column 'row' in the dataset; there are: smiles"):
        embed_dataset(pieces, 1, workers=2)


def test_more_workers_than_the_cluster_has_are_refused(cluster: Any) -> None:
    assert workers_of(cluster, 0, "auto").count == 3
    assert workers_of(cluster, 0, "cpu", spare=1).count == 2
    for wanted, device, why in [(4, "cpu", "3 cores"), (1, "cuda", "0 GPUs"), (1, "cuda:1", "Ray")]:
        with pytest.raises(ValueError, match=why):
            workers_of(cluster, wanted, device)


def test_without_ray_there_is_an_instruction(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'rdgeodiff\[ray\]'"):
        embed_dataset(None, 1)
    assert main(["screen", str(source), str(tmp_path / "out"), "--ray", "2", "--quiet"]) == 2
    assert "pip install 'rdgeodiff[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_files_is_one_library(tmp_path: Path, source: Path) -> None:
    lines = source.read_text().splitlines(keepends=True)
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "a.smi").write_text("".join(lines[:7]))
    (folder / "b.smi.gz").write_bytes(gzip.compress("".join(lines[7:19]).encode()))
    (folder / "c.csv").write_text(
        "name,smiles\n" + "".join(f"{n},{s}\n" for s, n in map(str.split, lines[19:]))
    )
    (folder / "notes.txt").write_text("not molecules\n")
    files = files_of(folder)
    assert [f.name for f in files] == ["a.smi", "b.smi.gz", "c.csv"]
    many = Library(files, tuple(count_records(f) for f in files))
    one = Library((source,), (ROWS,))
    assert many.counts == (7, 12, 11)
    for first, stop in [(0, ROWS), (3, 9), (7, 19), (18, 20), (29, 30), (5, 5), (28, 99)]:
        a, b = (list(lib.read(first, stop, add_hs=True)) for lib in (many, one))
        assert [(r.row, r.name, r.text) for r in a] == [(r.row, r.name, r.text) for r in b]
        assert [r.row for r in a] == list(range(first, min(stop, ROWS)))
    before = many.identity()
    assert before["bytes"] == sum(f.stat().st_size for f in files)
    (folder / "a.smi").write_text("".join(lines[:6]))
    assert many.identity() != before
    with pytest.raises(OSError, match=r"a\.smi: had 7 records or more, and ends after 6"):
        list(many.read(0, 9, add_hs=False))


def test_input_that_is_damaged_or_not_there_stops_before_the_work(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"CO n%d\n" % k for k in range(9999)))
    (tmp_path / "in.smi.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match=r"in\.smi\.gz, record \d+: the file is damaged"):
        count_records(tmp_path / "in.smi.gz")
    with pytest.raises(FileNotFoundError):
        files_of(tmp_path / "none.smi")
    shutil.copy(__file__, tmp_path / "only.py")
    (tmp_path / "in.smi.gz").unlink()
    with pytest.raises(ValueError, match="no file of molecules"):
        files_of(tmp_path)


def test_the_job_runs(
    tmp_path: Path,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
    import ray_job

    library = tmp_path / "library.smi"
    library.write_text("CO methanol\nC1CC broken\nCCO ethanol\n")
    ray_job.main([str(library), str(tmp_path / "out"), "-n", "2", "--workers", "1"])
    said = capsys.readouterr().out
    assert "3 molecules: 2 complete" in said and "4 conformers in" in said
