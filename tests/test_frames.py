"""pandas: rows stay where they are, every cell is survived, files keep what the frame has."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import embedded, mol_from, positions_of
from rdkit import Chem
from rdkit.Chem import PandasTools

import rdgeodiff
from rdgeodiff.frames import (
    AddConformersToFrame,
    ExplodeConformers,
    FrameFromParquet,
    FrameToParquet,
    WriteFrameToSDF,
    conformers,
)
from rdgeodiff.results import EmbedResult

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """ETKDG in the model's place: quick, and every cause is at hand."""
    made: list[dict] = []

    def embed(mols: list, counts: object, params: object = None, **options: object) -> list:
        made.append({"mols": list(mols), "counts": counts, "params": params, **options})
        results = []
        for k, mol in enumerate(mols):
            count = counts[k] if isinstance(counts, list) else counts
            if mol is None or mol.GetNumAtoms() == 0:
                cause = "INVALID_INPUT" if mol is None else "NO_ATOMS"
                results.append(EmbedResult([], count, {cause: count}, error="no atoms"))
                continue
            mol.RemoveAllConformers()
            short = any(a.GetSymbol() == "Br" for a in mol.GetAtoms())
            embedded(mol, count - short)
            failures = {"CLASH": 1} if short else {}
            results.append(EmbedResult(list(range(count - short)), count, failures))
        return results

    monkeypatch.setattr(conformers, "EmbedMoleculesDiffusion", embed)
    return made


def counts_of(frame: pd.DataFrame) -> list[int]:
    return [m.GetNumConformers() if isinstance(m, Chem.Mol) else -1 for m in frame["ROMol"]]


def test_treacherous_smiles_keep_their_rows() -> None:
    cells = ["CO", None, float("nan"), pd.NA, "", "C1CC", 5, "CBr", "C"]
    frame = pd.DataFrame({"n": range(9), "Smiles": pd.Series(cells, dtype=object)})
    assert AddConformersToFrame(frame, smilesCol="Smiles", numConfs=2) is None
    assert frame["n"].tolist() == list(range(9))
    assert counts_of(frame) == [2, -1, -1, -1, -1, -1, -1, 1, 2]
    assert frame["ROMol"][1] is None and frame["Error"][0] is None
    assert all(frame["Error"][k] == "INVALID_INPUT: the cell is empty" for k in (1, 2, 3, 4))
    assert "'C1CC' is not a SMILES" in frame["Error"][5] and "5 is not" in frame["Error"][6]
    assert frame["Error"][7] == "1 of 2 conformers; missing: CLASH 1"
    assert frame["ROMol"][0].GetNumAtoms() == 6  # with hydrogens
    assert frame["Smiles"].tolist()[:2] == ["CO", None]


def test_treacherous_molecules_keep_their_cells() -> None:
    cells = [
        mol_from("CO"),
        None,
        np.nan,
        pd.NA,
        Chem.Mol(),
        "CCO",
        7,
        [1],
        Chem.MolFromSmiles("C"),
    ]
    frame = pd.DataFrame({"ROMol": pd.Series(cells, dtype=object)})
    AddConformersToFrame(frame, numConfs=1)
    assert counts_of(frame) == [1, -1, -1, -1, 0, -1, -1, -1, 1]
    assert frame["ROMol"][5] == "CCO" and frame["ROMol"][7] == [1] and frame["ROMol"][3] is pd.NA
    assert frame["Error"][4] == "NO_ATOMS: no atoms"
    assert "smilesCol" in frame["Error"][5] and "int" in frame["Error"][6]
    assert frame["ROMol"][8].GetNumAtoms() == 5
    bare = pd.DataFrame({"ROMol": [Chem.MolFromSmiles("C")]})
    AddConformersToFrame(bare, numConfs=1, addHs=False, errorCol=None)
    assert bare["ROMol"][0].GetNumAtoms() == 1 and list(bare) == ["ROMol"]


@pytest.mark.parametrize(
    "index",
    [
        pd.Index([3, 3, 1]),
        pd.Index(["b", "b", "a"]),
        pd.MultiIndex.from_tuples([("x", 2), ("x", 2), ("a", 0)], names=["s", "k"]),
        pd.DatetimeIndex(["2024-03-01", "2023-01-01", "2024-03-01"]),
        pd.Index([np.nan, 1.0, np.nan]),
    ],
    ids=["duplicates", "text", "levels", "dates", "nan"],
)
@pytest.mark.parametrize("inplace", [True, False])
def test_any_index_is_kept(index: pd.Index, inplace: bool) -> None:
    frame = pd.DataFrame({"Smiles": ["C", "bad(", "CO"], "k": [0, 1, 2]}, index=index)
    made = AddConformersToFrame(frame, "Smiles", numConfs=1, inplace=inplace)
    made = frame if made is None else made
    assert made.index.equals(index) and made.index.names == index.names
    assert made["k"].tolist() == [0, 1, 2]
    assert [m is None for m in made["ROMol"]] == [False, True, False]
    assert [m.GetNumAtoms() for m in made["ROMol"].iloc[[0, 2]]] == [5, 6]
    each = ExplodeConformers(made)
    assert len(each) == 3 and each.index.equals(index)


def test_in_place_and_copy() -> None:
    mol, bare = mol_from("CO"), Chem.MolFromSmiles("CN")
    frame = pd.DataFrame({"ROMol": [mol, bare], "Error": ["old", "old"]})
    copy = AddConformersToFrame(frame, numConfs=2, inplace=False)
    assert copy is not frame and frame["ROMol"][0] is mol and mol.GetNumConformers() == 0
    assert frame["Error"].tolist() == ["old", "old"] and copy["Error"].tolist() == [None, None]
    assert counts_of(copy) == [2, 2] and counts_of(frame) == [0, 0]
    AddConformersToFrame(frame, numConfs=2)
    assert frame["ROMol"][0] is mol and mol.GetNumConformers() == 2
    # Hydrogens make another molecule; the caller's own stays as it was.
    assert bare.GetNumAtoms() == 2 and frame["ROMol"][1].GetNumAtoms() == 7


def test_one_molecule_in_several_rows_becomes_several() -> None:
    mol = mol_from("CO")
    frame = pd.DataFrame({"ROMol": [mol, mol, mol]})
    AddConformersToFrame(frame, numConfs=[1, 2, 3])
    assert counts_of(frame) == [1, 2, 3]


def test_parameters_arrive(calls: list[dict]) -> None:
    params = rdgeodiff.DiffusionEmbedParameters(randomSeed=3)
    frame = pd.DataFrame({"ROMol": [mol_from("C")]})
    AddConformersToFrame(frame, numConfs=1, params=params, pruneRmsThresh=0.5)
    assert calls[0]["params"] is params and calls[0]["pruneRmsThresh"] == 0.5


def test_columns_that_are_not_there_or_not_unique() -> None:
    frame = pd.DataFrame({"Smiles": ["C"]})
    with pytest.raises(KeyError, match="no column 'ROMol'; there are: 'Smiles'"):
        AddConformersToFrame(frame)
    twice = pd.DataFrame([["C", "N"]], columns=["Smiles", "Smiles"])
    with pytest.raises(ValueError, match="several columns 'Smiles'"):
        AddConformersToFrame(twice, "Smiles")
    empty = pd.DataFrame({"Smiles": pd.Series([], dtype=object)})
    AddConformersToFrame(empty, "Smiles")
    assert len(empty) == 0 and list(empty) == ["Smiles", "ROMol", "Error"]


def test_a_frame_of_pandas_tools() -> None:
    frame = pd.DataFrame({"Smiles": ["CCO", "bad(", "CN"]})
    PandasTools.AddMoleculeColumnToFrame(frame, "Smiles")
    AddConformersToFrame(frame, numConfs=2)
    assert counts_of(frame) == [2, -1, 2]
    assert frame["Error"][1] == "INVALID_INPUT: the cell is empty"


def test_explode_gives_a_row_for_every_conformer() -> None:
    mol = embedded("CCO", 3)
    mol.RemoveConformer(1)
    for conformer, energy in zip(mol.GetConformers(), (1.5, 2.5), strict=True):
        conformer.SetDoubleProp("rdgeodiff_energy", energy)
    grade = pd.Categorical(["low", "high"], ["low", "high"], ordered=True)
    frame = pd.DataFrame({"ROMol": [mol, None], "grade": grade}, index=["a", "b"])
    each = ExplodeConformers(frame)
    assert each.index.tolist() == ["a", "a", "b"]
    assert each["ConformerId"].tolist()[:2] == [0, 2] and each["ConformerId"].isna()["b"]
    assert each["Energy"].tolist()[:2] == [1.5, 2.5] and each["grade"].dtype == frame["grade"].dtype
    for k, conf_id in enumerate((0, 2)):
        single = each["ROMol"].iloc[k]
        assert single.GetNumConformers() == 1 and single.GetConformer().GetId() == conf_id
        assert single.GetConformer().GetDoubleProp("rdgeodiff_energy") == (1.5, 2.5)[k]
    assert mol.GetNumConformers() == 2 and len(ExplodeConformers(frame, keepEmpty=False)) == 2
    with pytest.raises(ValueError, match="ConformerId"):
        ExplodeConformers(each)
    assert "Energy" not in ExplodeConformers(pd.DataFrame({"ROMol": [embedded("C")]}))


def test_sdf_holds_every_conformer_with_the_frame_s_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pd.DataFrame(
        {
            "ROMol": [embedded("CO", 2), None, embedded("CN", 1)],
            "pIC50": [6.5, 1.0, np.nan],
            "when": pd.to_datetime(["2024-03-01", "2024-03-02", "2024-03-03"]),
            "big": [2**40, 0, 1],
            "label": ["first", "lost", "third"],
        }
    )
    path = tmp_path / "out.sdf.gz"
    assert WriteFrameToSDF(frame, path, idName="label") == 3
    assert "molecule 1" in caplog.text
    read = PandasTools.LoadSDF(str(path), removeHs=False)
    assert read["ID"].tolist() == ["first", "first", "third"]
    assert read["pIC50"].tolist()[:2] == ["6.5", "6.5"] and read["pIC50"].isna()[2]
    assert read["big"][0] == str(2**40) and read["when"][0].startswith("2024-03-01")
    back = rdgeodiff.ReadConformersFromSDF(path)
    assert [m.GetNumConformers() for m in back] == [2, 1]
    assert np.abs(positions_of(back[0]) - positions_of(frame["ROMol"][0])).max() < 1e-4
    assert not frame["ROMol"][0].HasProp("label")  # the frame's molecules stay as they are
    stream = io.StringIO()
    assert WriteFrameToSDF(frame.iloc[:1], stream, idName="RowID", properties=["label"]) == 2
    assert stream.getvalue().startswith("0\n") and "pIC50" not in stream.getvalue()


def test_parquet_gives_the_frame_back(tmp_path: Path) -> None:
    mol = embedded("C[C@H](N)C(=O)O", 3)
    mol.RemoveConformer(1)
    mol.SetProp("_Name", "alanine")
    mol.SetIntProp("count", 4)
    mol.GetConformer(2).SetDoubleProp("rdgeodiff_energy", -1.25)
    mol.GetAtomWithIdx(0).SetProp("note", "here")
    index = pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 0)], names=["s", None])
    frame = pd.DataFrame(
        {
            "ROMol": pd.Series([mol, None, pd.NA], dtype=object, index=index),
            "grade": pd.Categorical(["low", None, "high"], ["low", "high", "never"], ordered=True),
            "when": pd.to_datetime(
                ["2024-03-01 10:00:00.000000001", None, "2024-03-02"], format="ISO8601"
            ).tz_localize("Europe/Zurich"),
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "yes": pd.array([True, None, False], dtype="boolean"),
            "single": np.array([1.5, np.nan, 2], np.float32),
            "text": ["a", None, "ü"],
        },
        index=index,
    )
    path = tmp_path / "frame.parquet"
    before = frame.copy()
    FrameToParquet(frame, path)
    assert frame["ROMol"].iloc[0] is mol  # the frame is not touched
    back = FrameFromParquet(path)
    plain = [c for c in frame if c not in ("ROMol", "text")]
    assert list(back) == list(frame)
    pd.testing.assert_frame_equal(back[plain], before[plain])
    assert back["text"].tolist()[::2] == ["a", "ü"] and back["text"].isna().iloc[1]
    assert back["ROMol"].tolist()[1:] == [None, None]
    again = back["ROMol"].iloc[0]
    assert [c.GetId() for c in again.GetConformers()] == [0, 2]
    assert np.array_equal(positions_of(again), positions_of(mol))
    assert again.GetProp("_Name") == "alanine" and again.GetIntProp("count") == 4
    assert again.GetConformer(2).GetDoubleProp("rdgeodiff_energy") == -1.25
    assert again.GetAtomWithIdx(0).GetProp("note") == "here"
    assert Chem.MolToSmiles(again) == Chem.MolToSmiles(mol)


def test_parquet_refuses_what_it_would_lose(tmp_path: Path) -> None:
    mixed = pd.DataFrame({"ROMol": pd.Series([mol_from("C"), "CCO"], dtype=object)})
    with pytest.raises(TypeError, match="row 1 of column 'ROMol' holds a str"):
        FrameToParquet(mixed, tmp_path / "a.parquet")
    twice = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(ValueError, match="unique"):
        FrameToParquet(twice, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="several types"):
        FrameToParquet(pd.DataFrame({"a": [1], 7: [2]}), tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()
    numbered = pd.DataFrame({0: [mol_from("C")], 1: [2]})
    FrameToParquet(numbered, tmp_path / "numbers.parquet")
    back = FrameFromParquet(tmp_path / "numbers.parquet")
    assert list(back) == [0, 1] and back[0][0].GetNumAtoms() == 5
    FrameToParquet(pd.DataFrame({"ROMol": [None, None]}), tmp_path / "none.parquet")
    assert FrameFromParquet(tmp_path / "none.parquet")["ROMol"].isna().all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["pandas_frame.py", "--conformers", "1", "--out", "{tmp}"], "5 rows in"),
        (["drop_in.py", "--conformers", "1", "--molecules", "L-DOPA"], "diffusion"),
    ],
    ids=["pandas_frame", "drop_in"],
)
def test_the_example_runs(call: list[str], said: str, tmp_path: Path) -> None:
    script, *arguments = call
    done = subprocess.run(
        [
            sys.executable,
            str(EXAMPLES / script),
            *(a.replace("{tmp}", str(tmp_path)) for a in arguments),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
