"""Conformer properties survive bytes and SDF, with ids, types and specified stereo."""

from __future__ import annotations

import gzip
import io
import logging
import math
import pickle

import numpy as np
import pytest
from helpers import embedded, mol_from, positions_of
from rdkit import Chem

from rdgeodiff import (
    EmbedMoleculesDiffusion,
    MolFromBinaryWithProps,
    MolToBinaryWithProps,
    ReadConformersFromSDF,
    WriteConformersToSDF,
)
from rdgeodiff.chem.formats import ReaderError
from rdgeodiff.cli import main

VALUES = {
    "energy": -12.345678901234567,
    "rank": 3,
    "good": True,
    "bad": False,
    "digits": "007",
    "empty": "",
    "lines": "one\n\n> <two>\n$$$$",
    "spaces": "  x ",
    "sign": "> <fake>",
    "umlaut": "Größe",
    "wide": 4_000_000_000,
    "endless": math.inf,
}


def put(target, values):
    for name, value in values.items():
        kind = {bool: "Bool", int: "Int", float: "Double", str: ""}[type(value)]
        kind = "Unsigned" if name == "wide" else kind
        getattr(target, f"Set{kind}Prop")(name, value)


def told(target):
    found = target.GetPropsAsDict(False, False, False)
    return {name: (type(value), value) for name, value in found.items()}


def labelled(smiles, name, count=3):
    mol = embedded(smiles, count)
    mol.SetProp("_Name", name)
    put(mol, {"batch": 7, "source": "42", "weight": 1 / 3})
    for k, conformer in enumerate(mol.GetConformers()):
        conformer.SetId(2 * k + 1)
        put(conformer, {**VALUES, "rank": k})
    return mol


def assert_equal(one, other, atol=0.0):
    assert told(one) == told(other)
    assert Chem.MolToSmiles(one) == Chem.MolToSmiles(other)
    assert [a.GetAtomicNum() for a in one.GetAtoms()] == [
        a.GetAtomicNum() for a in other.GetAtoms()
    ]
    pairs = list(zip(one.GetConformers(), other.GetConformers(), strict=True))
    for first, second in pairs:
        assert first.GetId() == second.GetId() and told(first) == told(second)
        assert np.allclose(first.GetPositions(), second.GetPositions(), rtol=0, atol=atol)


def test_bytes_keep_everything():
    mol = labelled("C[C@H](F)O", "first")
    default = Chem.GetDefaultPickleProperties()
    sent = pickle.loads(pickle.dumps(MolToBinaryWithProps(mol)))
    assert Chem.GetDefaultPickleProperties() == default
    back = MolFromBinaryWithProps(sent)
    assert back.GetProp("_Name") == "first"
    assert_equal(back, mol)
    assert not Chem.Mol(mol.ToBinary(default)).GetConformer(1).HasProp("energy")


def test_bytes_that_are_no_molecule():
    with pytest.raises(ValueError, match="not an RDKit molecule"):
        MolFromBinaryWithProps(b"nothing")
    with pytest.raises(TypeError, match="NoneType"):
        MolToBinaryWithProps(None)


@pytest.mark.parametrize("ending", ["sdf", "sdf.gz"])
def test_sdf_round_trip_of_many(tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    mols = [
        labelled("C[C@H](F)O", "first"),
        labelled("C[C@@H](F)O", "first"),  # the mirror image under the same name
        labelled("c1ccccc1", "ring", 1),
        labelled("c1ccccc1", "ring", 2),  # the same molecule again
        labelled("[2H]OC/C=C/C", "", 2),
    ]
    before = [MolToBinaryWithProps(m) for m in mols]
    assert WriteConformersToSDF(mols, path) == 11
    assert [MolToBinaryWithProps(m) for m in mols] == before
    back = ReadConformersFromSDF(path)
    assert [m.GetProp("_Name") for m in back] == ["first", "first", "ring", "ring", ""]
    for one, other in zip(back, mols, strict=True):
        assert_equal(one, other, atol=1e-4)


def test_streams(tmp_path):
    mol = labelled("CCO", "x", 2)
    text = io.StringIO()
    assert WriteConformersToSDF(mol, text) == 2
    (tmp_path / "out.sdf").write_text(text.getvalue(), encoding="utf-8")
    [back] = ReadConformersFromSDF(tmp_path / "out.sdf")
    assert_equal(back, mol, atol=1e-4)


def test_other_programs_see_usual_fields(tmp_path):
    path = tmp_path / "out.sdf"
    mol = labelled("CCO", "x", 2)
    WriteConformersToSDF(mol, path)
    records = list(Chem.SDMolSupplier(str(path), removeHs=False))
    assert [r.GetIntProp("rdgeodiff_conformer") for r in records] == [1, 3]
    assert [r.GetIntProp("rank") for r in records] == [0, 1]
    assert [r.GetDoubleProp("energy") for r in records] == [VALUES["energy"]] * 2
    assert all(r.GetProp("source") == "42" and r.GetProp("_Name") == "x" for r in records)


def test_unspecified_stereo_stays_unspecified(tmp_path):
    path = tmp_path / "out.sdf"
    mol = embedded("CC(F)(O)C=CCl", 8)
    smiles = Chem.MolToSmiles(mol)
    WriteConformersToSDF([mol], path)
    [back] = ReadConformersFromSDF(path)
    assert back.GetNumConformers() == 8 and Chem.MolToSmiles(back) == smiles


def test_files_of_others_are_merged_too(tmp_path):
    path = tmp_path / "theirs.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for smiles in ("CCO", "CCN"):
            mol = embedded(smiles, 2)
            mol.SetProp("_Name", "same name")
            mol.SetProp("shared", "1")
            for k in range(2):
                mol.SetDoubleProp("score", k + 0.5)
                writer.write(mol, confId=k)
    back = ReadConformersFromSDF(path)
    assert [m.GetNumConformers() for m in back] == [2, 2]
    assert told(back[0]) == {"shared": (str, "1")}
    assert [c.GetProp("score") for c in back[1].GetConformers()] == ["0.5", "1.5"]
    assert [c.GetId() for c in back[1].GetConformers()] == [0, 1]


def test_another_order_of_atoms_is_another_molecule(tmp_path):
    path = tmp_path / "out.sdf"
    mol = embedded("CCO", 1)
    turned = Chem.RenumberAtoms(mol, list(range(mol.GetNumAtoms()))[::-1])
    WriteConformersToSDF([mol, turned], path)
    assert [m.GetAtomWithIdx(0).GetSymbol() for m in ReadConformersFromSDF(path)] == ["C", "H"]


def test_what_cannot_be_written_or_read_is_told(tmp_path, caplog):
    path = tmp_path / "out.sdf.gz"
    with caplog.at_level(logging.WARNING):
        assert WriteConformersToSDF([None, mol_from("C"), embedded("CO")], path) == 1
    assert "molecule 0 is None" in caplog.text and "molecule 1 is" in caplog.text
    caplog.clear()
    broken = tmp_path / "broken.sdf"
    broken.write_text("bad\n$$$$\n" + gzip.decompress(path.read_bytes()).decode())
    with caplog.at_level(logging.WARNING):
        [back] = ReadConformersFromSDF(broken)
    assert "record 1 is left out" in caplog.text and back.GetNumAtoms() == 6
    with pytest.raises(TypeError, match="molecule 1 is not"):
        WriteConformersToSDF([mol_from("C"), "C"], path)
    with pytest.raises(ReaderError):
        WriteConformersToSDF([], tmp_path / "out.csv")
    with pytest.raises(ReaderError):
        ReadConformersFromSDF(tmp_path / "in.smi")
    with pytest.raises(FileNotFoundError):
        ReadConformersFromSDF(tmp_path / "none.sdf")


def test_a_damaged_layout_costs_types_only(tmp_path):
    path = tmp_path / "out.sdf"
    mol = embedded("CCO", 2)
    for conformer in mol.GetConformers():
        conformer.SetDoubleProp("energy", 1.5 + conformer.GetId())
    WriteConformersToSDF(mol, path)
    path.write_text(path.read_text().replace('"smiles"', '"smilez"'))
    [back] = ReadConformersFromSDF(path)
    assert [c.GetProp("energy") for c in back.GetConformers()] == ["1.5", "2.5"]


def test_fields_of_an_earlier_run_are_not_passed_on(play, tmp_path):
    positions = positions_of(embedded("CCO", 1))[0]
    play(lambda request: positions)
    mol = mol_from("CCO")
    mol.SetDoubleProp("rdgeodiff_energy", -99.0)
    EmbedMoleculesDiffusion([mol], 1)
    WriteConformersToSDF(mol, tmp_path / "out.sdf")
    [record] = Chem.SDMolSupplier(str(tmp_path / "out.sdf"))
    assert not record.HasProp("rdgeodiff_energy") and record.GetProp("rdgeodiff_index") == "0"
    assert mol.GetDoubleProp("rdgeodiff_energy") == -99.0


def test_the_command_line_relaxes_and_writes_the_same_records(play, tmp_path, capsys):
    by_size = {m.GetNumAtoms(): positions_of(m)[0] for m in map(embedded, ("CCCO", "CB(O)O"))}
    play(lambda request: by_size[request.graph.n_atoms])
    source, target = tmp_path / "in.smi", tmp_path / "out.sdf"
    source.write_text("CCCO propanol\nCB(O)O acid\n")
    call = ["embed", str(source), str(target), "-n", "2", "--relax", "MMFF94s", "--quiet"]
    assert main(call) == 0
    assert "not relaxed, NO_PARAMETERS: 2" in capsys.readouterr().out
    propanol, acid = ReadConformersFromSDF(target)
    assert propanol.GetConformer(1).GetProp("rdgeodiff_relaxed") == "yes"
    assert isinstance(propanol.GetConformer(1).GetPropsAsDict()["rdgeodiff_energy"], float)
    assert acid.GetConformer(0).GetPropsAsDict() == {
        "rdgeodiff_index": 0,
        "rdgeodiff_relaxed": "NO_PARAMETERS",
    }
    with pytest.raises(SystemExit):
        main([*call, "--relax", "AMBER"])
