"""Formats other than SMILES, tables and SDF: by RDKit where it can, else by Open Babel.

Open Babel is an extra (`formats`) and is imported when a file needs it. A molecule that it read
carries the property `rdgeodiff_reader`, as its perception of bonds is not RDKit's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rdkit import Chem, rdBase

from rdgeodiff.chem.formats import OPEN_BABEL, ReaderError

FOREIGN = ("mol2", "pdb", "mae", "cdxml", "mrv", *OPEN_BABEL)
INSTRUCTION = "install Open Babel with: pip install 'rdgeodiff[formats]'"
_MOL2_START = "@<TRIPOS>MOLECULE"

# (name or "", molecule or None, why there is none)
Found = tuple[str, Chem.Mol | None, str | None]


def read_foreign(data: bytes, kind: str) -> Iterator[Found]:
    """Molecules of a file in one of the `FOREIGN` kinds, with the hydrogens that it names.

    Raises:
        ReaderError: only Open Babel reads this, and it is not installed.
    """
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    if kind == "mol2":
        starts = text.split(_MOL2_START)[1:]
        for block in starts:
            yield from _first(_mol2(_MOL2_START + block), (_MOL2_START + block).encode(), kind)
    elif kind == "pdb":
        yield from _pdb(text, data)
    elif kind == "mae":
        yield from _maestro(text)
    elif kind == "mrv":
        yield from _first(_quiet(Chem.MolFromMrvBlock, text, removeHs=False), data, kind)
    elif kind == "cdxml":
        mols = _quiet(Chem.MolsFromCDXML, text, True, False)
        if mols:
            yield from ((_name(m), m, None if m else "RDKit cannot read it") for m in mols)
        else:
            yield "", None, "not a ChemDraw file with molecules that RDKit can read"
    else:
        yield from _open_babel(data, kind)


def _quiet(parse: Any, *arguments: Any, **options: Any) -> Any:
    with rdBase.BlockLogs():
        try:
            return parse(*arguments, **options)
        except (RuntimeError, ValueError):
            return None


def _name(mol: Chem.Mol | None) -> str:
    return mol.GetProp("_Name").strip() if mol is not None and mol.HasProp("_Name") else ""


def _first(mol: Chem.Mol | None, data: bytes, kind: str) -> Iterator[Found]:
    """RDKit's molecule, or Open Babel's where RDKit has none."""
    if mol is not None:
        yield _name(mol), mol, None
        return
    try:
        yield from _open_babel(data, kind)
    except ReaderError:
        why = f"RDKit cannot read this {kind} record; perhaps Open Babel can"
        yield "", None, f"{why}: {INSTRUCTION}"


def _mol2(block: str) -> Chem.Mol | None:
    return _quiet(Chem.MolFromMol2Block, block, removeHs=False)


def _pdb(text: str, data: bytes) -> Iterator[Found]:
    # RDKit knows the bond orders of standard residues and those that CONECT lines repeat. Without
    # either it makes every bond single, which would be another molecule.
    if _has_ligand(text) and not _has_bond_orders(text):
        try:
            yield from _open_babel(data, "pdb")
        except ReaderError:
            why = "the file gives no bond orders; Open Babel finds them from the positions"
            yield "", None, f"{why}: {INSTRUCTION}"
        return
    mol = _quiet(Chem.MolFromPDBBlock, text, removeHs=False)
    if mol is not None and mol.GetNumAtoms():
        Chem.AssignStereochemistryFrom3D(mol)
        yield _name(mol), mol, None
    else:
        yield "", None, "not a PDB file RDKit can read"


def _has_ligand(text: str) -> bool:
    lines = text.splitlines()
    return any(s.startswith("HETATM") and s[17:20].strip() not in ("HOH", "WAT") for s in lines)


def _has_bond_orders(text: str) -> bool:
    for line in text.splitlines():
        if line.startswith("CONECT"):
            partners = [line[k : k + 5] for k in range(11, 31, 5) if line[k : k + 5].strip()]
            if len(set(partners)) < len(partners):
                return True
    return False


def _maestro(text: str) -> Iterator[Found]:
    supplier = Chem.MaeMolSupplier()
    if _quiet(supplier.SetData, text, removeHs=False) is None and "f_m_ct" not in text:
        yield "", None, "not a Maestro file RDKit can read"
        return
    for k in range(len(supplier)):
        mol = _quiet(supplier.__getitem__, k)
        yield _name(mol), mol, None if mol is not None else "not a record RDKit can read"


def _open_babel(data: bytes, kind: str) -> Iterator[Found]:
    try:
        from openbabel import openbabel
    except ImportError:
        raise ReaderError(f".{kind} files are read by Open Babel: {INSTRUCTION}") from None
    conversion = openbabel.OBConversion()
    conversion.SetInFormat(kind)
    level = openbabel.obErrorLog.GetOutputLevel()
    openbabel.obErrorLog.SetOutputLevel(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"molecules.{kind}"
            path.write_bytes(data)
            source = openbabel.OBMol()
            more = conversion.ReadFile(source, str(path))
            if not more or not source.NumAtoms():
                yield "", None, f"not a {kind} file Open Babel can read"
            while more and source.NumAtoms():
                mol = _translated(openbabel, source)
                name = source.GetTitle().strip()
                # Open Babel names a molecule without a title after its file.
                name = "" if name.startswith(folder) else name
                yield name, mol, None if mol is not None else "RDKit rejects what Open Babel read"
                source = openbabel.OBMol()
                more = conversion.Read(source)
    finally:
        openbabel.obErrorLog.SetOutputLevel(level)


def _translated(openbabel: Any, source: Any) -> Chem.Mol | None:
    """Open Babel's molecule as RDKit's; stereo goes with the positions, or in SMILES."""
    conversion = openbabel.OBConversion()
    flat = source.GetDimension() == 0
    conversion.SetOutFormat("smi" if flat else "mol")
    text = conversion.WriteString(source)
    if flat:
        mol = _quiet(Chem.MolFromSmiles, text.split()[0] if text.split() else "")
    else:
        mol = _quiet(Chem.MolFromMolBlock, text, removeHs=False)
    if mol is not None:
        mol.SetProp("rdgeodiff_reader", "Open Babel")
    return mol
