"""Tables and pipes: SDF and Parquet out, an account of the run, options from a file."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import embedded, positions_of
from rdkit import Chem

from rdgeodiff import DiffusionEmbedParameters, FrameFromParquet, FrameToParquet, embed_file
from rdgeodiff.chem.formats import ReaderError
from rdgeodiff.chem.readers import count_molecules, read_molecules
from rdgeodiff.cli import main
from rdgeodiff.results import EmbedResult

# The command line with ETKDG in the model's place, for a process of its own.
CHILD = """
import sys
from rdkit.Chem import rdDistGeom
from rdgeodiff import embed_file
from rdgeodiff.cli import main
from rdgeodiff.results import EmbedResult

def embed(mols, count, **options):
    for mol in mols:
        rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=7)
    return [EmbedResult(list(range(count)), count) for _ in mols]

embed_file.EmbedMoleculesDiffusion = embed
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    made: list[dict] = []

    def embed(mols: list, count: int, **options: object) -> list[EmbedResult]:
        made.append(options)
        results = []
        for mol in mols:
            mol.RemoveAllConformers()
            if any(a.GetSymbol() == "Pt" for a in mol.GetAtoms()):
                failures = {"UNSUPPORTED_ATOM": count}
                results.append(
                    EmbedResult([], count, failures, error="molecule 0 ([Pt]): atom 0 is Pt")
                )
            else:
                embedded(mol, count)
                results.append(EmbedResult(list(range(count)), count))
        return results

    monkeypatch.setattr(embed_file, "EmbedMoleculesDiffusion", embed)
    return made


def test_tables_keep_names_columns_and_order(tmp_path: Path, calls: list[dict]) -> None:
    table = tmp_path / "in.tsv"
    # A byte-order mark, as spreadsheets write it, and the SMILES not in front.
    table.write_bytes("\ufeffid\tSmiles\tIC50\tnote\nb\tCO\t5\tü\na\tCN\t\t\n".encode())
    target = tmp_path / "out.sdf"
    assert main(["embed", str(table), str(target), "-n", "1", "--quiet"]) == 0
    records = list(Chem.SDMolSupplier(str(target), removeHs=False))
    assert [m.GetProp("_Name") for m in records] == ["b", "a"]
    assert records[0].GetProp("IC50") == "5" and records[0].GetProp("note") == "ü"
    named = tmp_path / "two.csv"
    named.write_text("smiles_raw,structure\nbad(,CO\n")
    assert next(read_molecules(named)).mol is None
    assert next(read_molecules(named, smiles_column="structure")).mol is not None
    with pytest.raises(ReaderError, match="no column 'x'; there are: smiles_raw, structure"):
        next(read_molecules(named, smiles_column="x"))


def test_parquet_out_keeps_failed_rows_and_comes_back(tmp_path: Path, calls: list[dict]) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.parquet"
    source.write_text("smiles,name,x\nCO,one,1\nbad(,two,2\n[Pt],three,3\n")
    assert main(["embed", str(source), str(target), "-n", "2", "--quiet", "--seed", "5"]) == 0
    frame = FrameFromParquet(target)
    assert frame["name"].tolist() == ["one", "two", "three"]
    # Named by its row in the file, whatever was embedded together.
    assert frame["error"][2] == "molecule 2 ([Pt]): atom 0 is Pt"
    assert frame["delivered"].tolist() == [2, 0, 0] and "SMILES" in frame["error"][1]
    assert json.loads(frame["failures"][2]) == {"UNSUPPORTED_ATOM": 2}
    mol = frame["ROMol"][0]
    assert mol.GetNumConformers() == 2 and mol.GetProp("x") == "1" and frame["ROMol"][1] is None
    assert set(frame["rdgeodiff_seed"]) == {"5"}
    # And in again: molecules, names and properties, one bad cell.
    again = list(read_molecules(target))
    assert [r.name for r in again] == ["one", "two", "three"] and again[1].error
    assert again[0].mol.GetProp("x") == "1" and count_molecules(target) == 3
    assert (positions_of(again[0].mol) == positions_of(mol)).all()


def test_parquet_of_smiles(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "in.parquet"
    FrameToParquet(pd.DataFrame({"Smiles": ["CO", None, "x("], "pic50": [5.5, 1, 2]}), path)
    found = list(read_molecules(path))
    assert found[0].mol.GetProp("pic50") == "5.5" and found[0].text == "CO"
    assert "empty" in found[1].error and "not a SMILES" in found[2].error
    (tmp_path / "bad.parquet").write_bytes(b"no such thing")
    with pytest.raises(ReaderError, match="not a Parquet file"):
        list(read_molecules(tmp_path / "bad.parquet"))


def test_a_zipped_pipe_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BufferedReader(io.BytesIO(gzip.compress(b"CO first\n")))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    assert [r.name for r in read_molecules("-", kind="smi")] == ["first"]


def test_pipes() -> None:
    data = b"CO first\nnonsense( bad\nCN second\n"
    command = [sys.executable, "-c", CHILD, "embed", "-", "-", "--from", "smi", "--to", "sdf"]
    done = subprocess.run(
        [*command, "-n", "2"],
        input=data,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = Chem.ForwardSDMolSupplier(io.BytesIO(done.stdout), removeHs=False)
    assert [m.GetProp("_Name") for m in records] == ["first", "first", "second", "second"]
    # Summary and bar go where they do not spoil the pipe.
    assert b"3 molecules: 2 complete" in done.stderr and b"conformers/s" in done.stderr


def test_a_reader_that_stops_reading_is_no_error() -> None:
    command = [sys.executable, "-c", CHILD, "embed", "-", "-", "--from", "smi", "--to", "sdf"]
    with subprocess.Popen(
        [*command, "--quiet", "-n", "20"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdin and child.stdout and child.stderr
        child.stdout.close()
        child.stdin.write(b"CCCCCC\n" * 20)
        child.stdin.close()
        said = child.stderr.read()
    assert child.returncode == 130 and b"Traceback" not in said and b"BrokenPipe" not in said


def test_params_file_and_options_that_win(tmp_path: Path, calls: list[dict]) -> None:
    source, params = tmp_path / "in.smi", tmp_path / "params.json"
    source.write_text("CO\n")
    settings = DiffusionEmbedParameters(randomSeed=11, pruneRmsThresh=0.3, maxIterations=4, steps=9)
    params.write_text(settings.toJSON())
    call = ["embed", str(source), str(tmp_path / "out.sdf"), "-n", "1", "--params", str(params)]
    assert main([*call, "--seed", "3", "--steps", "5", "--quiet"]) == 0
    assert {k: calls[0][k] for k in ("randomSeed", "pruneRmsThresh", "maxIterations", "steps")} == {
        "randomSeed": 3,
        "pruneRmsThresh": 0.3,
        "maxIterations": 4,
        "steps": 5,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"pruneRMSThresh": 1}', "did you mean pruneRmsThresh?"),
        ('{"zzz": 1}', "there is no parameter 'zzz'; known: randomSeed"),
        ('{"steps": "many"}', "steps must be of type int"),
        ('{"timeout": -1}', "timeout must be at least 0"),
        ("[1]", "JSON object"),
        ("{", "Expecting property name"),
    ],
)
def test_params_typos_end_with_a_sentence(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, params = tmp_path / "in.smi", tmp_path / "params.json"
    source.write_text("CO\n")
    params.write_text(text)
    call = ["embed", str(source), str(tmp_path / "out.sdf"), "--params", str(params), "--quiet"]
    assert main(call) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("rdgeodiff: ") and "params.json" in complaint and said in complaint
    assert not (tmp_path / "out.sdf").exists()


def test_the_help_speaks_of_chemistry(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["embed", "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "examples:" in said and "zcat library.smi.gz" in said
    assert all(group in said for group in ("files:", "conformers:", "account:"))


def test_names_that_would_break_a_record(tmp_path: Path, calls: list[dict]) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.sdf"
    source.write_text('smiles,name,note\nCO,"two\nlines","a\n\n$$$$\nb"\nCN,next,\n')
    assert main(["embed", str(source), str(target), "-n", "1", "--quiet"]) == 0
    records = list(Chem.SDMolSupplier(str(target), removeHs=False))
    assert [m.GetProp("_Name") for m in records] == ["two lines", "next"]
