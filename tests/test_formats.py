"""Files of many kinds in: each gives the same molecule, or says what is needed to read it."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest
from helpers import embedded
from rdkit import Chem

from rdgeodiff.chem.foreign_formats import INSTRUCTION
from rdgeodiff.chem.formats import ReaderError, kind_of
from rdgeodiff.chem.readers import count_molecules, read_molecules
from rdgeodiff.cli import main

ALANINE = "C[C@H](N)C(=O)O"


def alanine() -> Chem.Mol:
    mol = embedded(ALANINE)
    mol.SetProp("_Name", "ala")
    return mol


def by_open_babel(mol: Chem.Mol, kind: str) -> str:
    from openbabel import openbabel

    conversion = openbabel.OBConversion()
    conversion.SetInAndOutFormats("mol", kind)
    middle = openbabel.OBMol()
    conversion.ReadString(middle, Chem.MolToMolBlock(mol))
    return conversion.WriteString(middle)


def maestro(mol: Chem.Mol) -> str:
    return Chem.MaeWriter.GetText(mol)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("mol", Chem.MolToMolBlock),
        ("mol2", lambda mol: by_open_babel(mol, "mol2")),
        ("pdb", Chem.MolToPDBBlock),
        ("mae", maestro),
        ("mrv", Chem.MolToMrvBlock),
        ("cml", lambda mol: by_open_babel(mol, "cml")),
        ("inchi", lambda mol: Chem.MolToInchi(mol) + " ala\n"),
    ],
)
def test_each_format_gives_the_same_molecule(kind: str, text: object, tmp_path: Path) -> None:
    path = tmp_path / f"in.{kind}.gz"
    path.write_bytes(gzip.compress(text(alanine()).encode()))
    (record,) = read_molecules(path)
    assert record.error is None and record.mol.GetNumAtoms() == 13
    seen = Chem.RemoveHs(record.mol)
    # Some formats have no title; then the record is named by its number.
    assert record.name in ("ala", "mol1")
    # An InChI knows no zwitterions, and a MOL2 none either: the plain acid is what went in.
    assert Chem.MolToSmiles(seen) == Chem.CanonSmiles(ALANINE)
    assert record.mol.HasProp("rdgeodiff_reader") == (kind == "cml")


def test_several_molecules_and_bad_ones_in_a_mol2(tmp_path: Path) -> None:
    block = by_open_babel(alanine(), "mol2")
    path = tmp_path / "in.mol2"
    path.write_text(block + "@<TRIPOS>MOLECULE\nbroken\n 1 0\n\n" + block)
    found = list(read_molecules(path))
    assert [r.mol is None for r in found] == [False, True, False]
    assert [r.row for r in found] == [0, 1, 2] and found[1].error


def test_chemdraw_drawings_get_their_hydrogens(tmp_path: Path) -> None:
    flat = Chem.MolFromSmiles("CCO")
    Chem.rdDepictor.Compute2DCoords(flat)
    path = tmp_path / "in.cdxml"
    path.write_text(by_open_babel(flat, "cdxml"))
    assert [r.mol.GetNumAtoms() for r in read_molecules(path)] == [9]
    assert [r.mol.GetNumAtoms() for r in read_molecules(path, add_hs=False)] == [3]


def test_a_pdb_ligand_without_bond_orders_is_not_made_saturated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Chem.MolToPDBBlock(embedded("c1ccccc1C(=O)N"))
    bare = "".join(s for s in text.splitlines(True) if not s.startswith("CONECT"))
    path = tmp_path / "in.pdb"
    path.write_text(bare)
    (record,) = read_molecules(path)
    assert Chem.MolToSmiles(Chem.RemoveHs(record.mol)) == "NC(=O)c1ccccc1"
    assert record.mol.GetProp("rdgeodiff_reader") == "Open Babel"
    monkeypatch.setitem(sys.modules, "openbabel", None)
    (record,) = read_molecules(path)
    assert record.mol is None and INSTRUCTION in record.error


def test_without_open_babel_there_is_an_instruction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.cml"
    path.write_text(by_open_babel(alanine(), "cml"))
    monkeypatch.setitem(sys.modules, "openbabel", None)
    assert main(["embed", str(path), str(tmp_path / "out.sdf"), "--quiet"]) == 2
    assert "pip install 'rdgeodiff[formats]'" in capsys.readouterr().err


def test_smiles_with_header_and_extension(tmp_path: Path) -> None:
    path = tmp_path / "in.smi"
    path.write_text("SMILES Name\nCO |$a;b$| methanol\nCN\tname with blanks\n")
    found = list(read_molecules(path))
    assert [r.name for r in found] == ["methanol", "name with blanks"]
    assert all(r.mol is not None for r in found) and count_molecules(path) == 2


def test_kinds() -> None:
    assert (
        kind_of("a/b.SMI.gz") == "smi"
        and kind_of("x.maegz") == "mae"
        and kind_of("-", "sd") == "sdf"
    )
    assert kind_of("table.txt", "csv") == "csv" and kind_of("x.sdf", "mol2.gz") == "mol2"
    for path, named in (("-", None), ("x.xyz", None), ("smi", None), ("x.smi", "nonsense")):
        with pytest.raises(ReaderError):
            kind_of(path, named)
