"""The command line: files in and out, exit status, nothing ends in a traceback."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from helpers import embedded
from rdkit import Chem

from rdgeodiff import embed_file
from rdgeodiff.chem.readers import ReaderError, read_molecules
from rdgeodiff.cli import main
from rdgeodiff.results import EmbedResult


def _fake_embed(mols: list, count: int, **options: object) -> list[EmbedResult]:
    results = []
    for mol in mols:
        if any(a.GetSymbol() == "Pt" for a in mol.GetAtoms()):
            results.append(
                EmbedResult(
                    requested=count, failures={"UNSUPPORTED_ATOM": count}, error="atom 0 (Pt)\nno"
                )
            )
            continue
        mol.RemoveAllConformers()
        embedded(mol, count)
        results.append(EmbedResult(list(range(count)), count))
    return results


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    calls: list[dict] = []

    def embed(mols: list, count: int, **options: object) -> list[EmbedResult]:
        calls.append(options)
        return _fake_embed(mols, count, **options)

    monkeypatch.setattr(embed_file, "EmbedMoleculesDiffusion", embed)
    return calls


def test_embed_counts_bad_lines_and_writes_every_conformer(
    tmp_path: Path, fake: list[dict], capsys: pytest.CaptureFixture[str]
) -> None:
    source, target, failed = tmp_path / "in.smi", tmp_path / "out.sdf", tmp_path / "failed.tsv"
    source.write_text("# a comment\nCCO ethanol\n\nC1CC ring left open\nc1ccccc1\n[Pt] metal\n")
    call = ["embed", str(source), str(target), "-n", "2", "--failed", str(failed), "--quiet"]
    assert main(call) == 0
    records = list(Chem.SDMolSupplier(str(target), removeHs=False))
    assert [m.GetProp("_Name") for m in records] == ["ethanol", "ethanol", "mol3", "mol3"]
    assert [m.GetIntProp("rdgeodiff_conformer") for m in records] == [0, 1, 0, 1]
    assert records[0].GetNumAtoms() == 9 and records[0].GetConformer().Is3D()
    said = capsys.readouterr().out
    assert "4 molecules: 2 complete, 0 with fewer conformers, 2 without any" in said
    assert "4 of 8 conformers" in said
    assert "INVALID_INPUT: 2" in said and "UNSUPPORTED_ATOM: 2" in said
    table = [line.split("\t") for line in failed.read_text().splitlines()]
    assert [row[0] for row in table] == ["row", "1", "3"] and all(len(row) == 6 for row in table)
    assert table[1][1:4] == ["ring left open", "C1CC", "0"]
    assert main([*call, "--strict"]) == 1
    assert fake[0]["randomSeed"] == -1 and fake[0]["pruneRmsThresh"] == -1.0


def test_embed_reads_sdf_and_csv_also_zipped(tmp_path: Path, fake: list[dict]) -> None:
    good = Chem.MolToMolBlock(embedded("CO"))
    plain = tmp_path / "in.sdf.gz"
    with gzip.open(plain, "wt") as stream:
        stream.write(f"{good}>  <note>\nkept\n\n$$$$\nbroken\nnothing\n$$$$\n{good}$$$$\n\n")
    target = tmp_path / "out.sdf.gz"
    assert main(["embed", str(plain), str(target), "-n", "1", "--quiet", "--seed", "4"]) == 0
    with gzip.open(target) as stream:
        records = list(Chem.ForwardSDMolSupplier(stream, removeHs=False))
    assert len(records) == 2 and records[0].GetProp("note") == "kept"
    assert records[0].GetProp("rdgeodiff_seed") == "4"

    table = tmp_path / "in.csv"
    table.write_text('SMILES,activity,Name\n"CCO",3,first\nCC(,1,\n,,empty\n\nCN\n')
    found = list(read_molecules(table))
    assert [r.name for r in found] == ["first", "mol2", "empty", "mol4"]
    assert [r.mol is None for r in found] == [False, True, True, False]
    assert found[0].mol.GetNumAtoms() == 9
    assert next(read_molecules(table, add_hs=False)).mol.GetNumAtoms() == 3
    headless = tmp_path / "plain.csv"
    headless.write_text("CCO,1\nCN,2\n")
    assert [r.text for r in read_molecules(headless)] == ["CCO", "CN"]


def test_damaged_files_lose_only_what_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "in.smi.gz"
    lines = "".join(f"{'C' * (k % 50 + 1)}O n{k}\n" for k in range(5000))
    path.write_bytes(gzip.compress(lines.encode())[:-200])
    found = list(read_molecules(path))
    assert len(found) > 10 and found[-1].mol is None and "damaged" in found[-1].error
    assert all(r.mol is not None for r in found[:-1])
    binary = tmp_path / "in.smi"
    binary.write_bytes(bytes(range(256)))
    assert all(r.mol is None for r in read_molecules(binary))
    with pytest.raises(ReaderError, match="unknown kind"):
        next(read_molecules(tmp_path / "in.xyz"))


def test_chunks_of_a_seed_differ(tmp_path: Path, fake: list[dict]) -> None:
    source = tmp_path / "in.smi"
    source.write_text("C\n" * (embed_file.CHUNK + 1))
    main(["embed", str(source), str(tmp_path / "o.sdf"), "-n", "1", "--seed", "9", "--quiet"])
    assert [c["randomSeed"] for c in fake] == [9, 9 + embed_file.CHUNK]


def test_ctrl_c_keeps_finished_molecules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def embed(mols: list, count: int, **options: object) -> list[EmbedResult]:
        calls.append(len(mols))
        if len(calls) > 1:
            raise KeyboardInterrupt
        return _fake_embed(mols, count)

    monkeypatch.setattr(embed_file, "EmbedMoleculesDiffusion", embed)
    source, target = tmp_path / "in.smi", tmp_path / "out.sdf"
    source.write_text("C\n" * (2 * embed_file.CHUNK))
    assert main(["embed", str(source), str(target), "-n", "1", "--quiet"]) == 130
    assert len(Chem.SDMolSupplier(str(target))) == embed_file.CHUNK
    assert "interrupted" in capsys.readouterr().out


@pytest.mark.parametrize(
    "call",
    [
        ["embed", "missing.smi", "{tmp}/out.sdf"],
        ["embed", "{tmp}/in.smi", "{tmp}/out.pdb"],
        ["embed", "{tmp}/in.xyz", "{tmp}/out.sdf"],
        ["embed", "{tmp}/in.smi", "{tmp}/out.sdf", "--model", "nonexistent"],
        ["evaluate", "{tmp}/in.smi", "--methods", "etkdg"],
        ["evaluate", "{tmp}/in.smi", "--methods", "magic"],
        ["train", "--config", "{tmp}/bad.json", "--out", "{tmp}/run"],
        ["train", "--config", "{tmp}/in.smi", "--out", "{tmp}/run"],
        ["export", "{tmp}", "{tmp}/model"],
        ["dataset", "info", "{tmp}/in.smi"],
        ["dataset", "featurize", "{tmp}/in.smi", "{tmp}/shard.npz"],
    ],
)
def test_wrong_calls_end_with_a_sentence(
    call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("in.smi", "in.xyz"):
        (tmp_path / name).write_text("CCO\n")
    (tmp_path / "bad.json").write_text('{"shards": {}, "unknown": 1}')
    arguments = [part.replace("{tmp}", str(tmp_path)) for part in call]
    extra = [] if call[0] in ("dataset", "export") else ["--quiet"]
    assert main(arguments + extra) == 2
    assert capsys.readouterr().err.startswith("rdgeodiff: ")


def test_a_failing_call_leaves_an_older_output_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.smi", tmp_path / "out.sdf"
    source.write_text("CCO\n")
    target.write_text("precious")
    assert main(["embed", str(source), str(target), "--model", "nonexistent", "--quiet"]) == 2
    assert target.read_text() == "precious"
    assert main(["embed", str(source), str(tmp_path / "no" / "out.sdf")]) == 2
    source.write_text("bad\n")
    assert main(["embed", str(source), str(target), "--quiet"]) == 0
    assert target.read_text() == ""


@pytest.mark.parametrize("call", [[], ["fly"], ["embed", "a.smi"], ["embed", "a", "b", "-n", "0"]])
def test_argparse_errors_exit_with_2(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(call)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_info_names_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "rdgeodiff" in said and "torch" in said and "rdkit" in said
    led = {line.split()[1].rstrip(":"): line for line in said.splitlines() if "guided" in line}
    assert led["base"].endswith("guided by guide") and led["small"].endswith("on demand")
    (swift,) = (line for line in said.splitlines() if line.startswith("model swift"))
    assert swift.endswith("for heavy atoms, 4 more of small for all atoms")
