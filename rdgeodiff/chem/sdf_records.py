"""One SDF record per conformer, and back: what an SDF loses of a Mol is written down beside it.

An SDF knows text only, and no conformer properties. Each record therefore carries one field more,
`LAYOUT`, with the types of the properties, which of them are the conformer's, and the stereo that
was specified (a reader finds stereo in any 3D structure). Other programs see usual fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rdkit import Chem

from rdgeodiff.chem.conformers import ENERGY, FORCE_FIELD, INDEX, RELAXED, Property, set_property

CONFORMER_ID = "rdgeodiff_conformer"
LAYOUT = "rdgeodiff_layout"

_OWN = (ENERGY, FORCE_FIELD, RELAXED)
_READ: dict[str, Callable[[str], Property]] = {
    "bool": lambda text: text.strip() == "1",
    "int": int,
    "float": float,
    "str": str,
    "json": json.loads,
}


def conformer_block(mol: Chem.Mol, conf_id: int) -> str:
    """SDF record of a conformer, with its properties beside the molecule's.

    Where both have a property of one name, the conformer's is written.

    Raises:
        ValueError: no such conformer.
    """
    copy = Chem.Mol(mol, confId=conf_id)
    conformer = copy.GetConformer(conf_id)
    if conformer.HasProp(INDEX):
        # Fields of an earlier run that came in with the molecule say nothing of this conformer.
        for name in _OWN:
            copy.ClearProp(name)
    for name in (CONFORMER_ID, LAYOUT):
        copy.ClearProp(name)
    own, shared = properties_of(conformer), properties_of(copy)
    layout: dict[str, Any] = {
        "smiles": _smiles(mol),
        "centers": _tagged_atoms(mol),
        "bonds": _labelled_bonds(mol),
        "molecule": {},
        "conformer": {},
    }
    for part, values in (("molecule", shared), ("conformer", own)):
        for name, value in values.items():
            kind, text = _as_text(value)
            copy.SetProp(name, text)
            if part == "conformer" or name not in own:
                layout[part][name] = kind
    if copy.HasProp("_Name"):
        # A line break in a title would shift every line of the block below it.
        copy.SetProp("_Name", " ".join(copy.GetProp("_Name").split()))
    copy.SetIntProp(CONFORMER_ID, conf_id)
    copy.SetProp(LAYOUT, json.dumps(layout, separators=(",", ":")))
    return Chem.SDWriter.GetText(copy, confId=conf_id)


def properties_of(target: Chem.Mol | Chem.Conformer) -> dict[str, Any]:
    """Public properties under their types; text that looks like a number stays text."""
    return dict(target.GetPropsAsDict(False, False, False))


def merged(records: Iterable[Chem.Mol]) -> Iterator[Chem.Mol]:
    """Molecules with all their conformers from records with one each.

    Consecutive records belong together if title, SMILES, atoms and bonds in order are the same,
    and no conformer id comes twice. In records without `LAYOUT`, fields that are equal in all are
    the molecule's and the others the conformers', all text.
    """
    group: list[Chem.Mol] = []
    layouts: list[dict[str, Any] | None] = []
    key, ids = None, set[int]()
    for record in records:
        layout = _layout(record)
        new_key = _key(record, layout)
        conf_id = record.GetIntProp(CONFORMER_ID) if layout is not None else len(group)
        if group and (new_key != key or conf_id in ids):
            yield _joined(group, layouts)
            group, layouts, ids = [], [], set()
            conf_id = conf_id if layout is not None else 0
        key = new_key
        record.GetConformer().SetId(conf_id)
        ids.add(conf_id)
        group.append(record)
        layouts.append(layout)
    if group:
        yield _joined(group, layouts)


def _joined(records: list[Chem.Mol], layouts: list[dict[str, Any] | None]) -> Chem.Mol:
    mol = Chem.Mol(records[0])
    mol.RemoveAllConformers()
    for name in properties_of(mol):
        mol.ClearProp(name)
    fields = [properties_of(record) for record in records]
    first = layouts[0]
    if first is not None:
        _forget_other_stereo(mol, first)
    for record, layout, own in zip(records, layouts, fields, strict=True):
        conformer = Chem.Conformer(record.GetConformer())
        for name, text in own.items():
            if layout is None:
                is_shared = all(other.get(name) == text for other in fields)
                kind = "str"
            elif name in (CONFORMER_ID, LAYOUT):
                continue
            else:
                is_shared = name not in layout["conformer"]
                kind = layout["molecule" if is_shared else "conformer"].get(name, "str")
            set_property(mol if is_shared else conformer, name, _from_text(kind, text))
        mol.AddConformer(conformer, assignId=False)
    return mol


def _key(record: Chem.Mol, layout: dict[str, Any] | None) -> tuple:
    """What records of one molecule have in common."""
    title = record.GetProp("_Name") if record.HasProp("_Name") else ""
    smiles = _smiles(record) if layout is None else layout["smiles"]
    atoms = tuple(
        (a.GetAtomicNum(), a.GetFormalCharge(), a.GetIsotope(), a.GetAtomMapNum())
        for a in record.GetAtoms()
    )
    bonds = tuple(
        (b.GetBeginAtomIdx(), b.GetEndAtomIdx(), str(b.GetBondType())) for b in record.GetBonds()
    )
    return layout is None, title, smiles, atoms, bonds


def _layout(record: Chem.Mol) -> dict[str, Any] | None:
    """The record's `LAYOUT`; None where there is none, or none that can be understood."""
    try:
        layout = json.loads(record.GetProp(LAYOUT))
        record.GetIntProp(CONFORMER_ID)
        types = {**layout["molecule"], **layout["conformer"]}
        understood = set(types.values()) <= set(_READ) and isinstance(layout["smiles"], str)
        lists = [isinstance(layout[name], list) for name in ("centers", "bonds")]
    except (KeyError, TypeError, ValueError, RuntimeError):
        return None
    return layout if understood and all(lists) else None


def _smiles(mol: Chem.Mol) -> str:
    # RDKit leaves notes on a Mol whose SMILES it writes.
    return str(Chem.MolToSmiles(Chem.Mol(mol)))


def _tagged_atoms(mol: Chem.Mol) -> list[int]:
    none = Chem.ChiralType.CHI_UNSPECIFIED
    return [a.GetIdx() for a in mol.GetAtoms() if a.GetChiralTag() != none]


def _labelled_bonds(mol: Chem.Mol) -> list[int]:
    none = (Chem.BondStereo.STEREONONE, Chem.BondStereo.STEREOANY)
    return [b.GetIdx() for b in mol.GetBonds() if b.GetStereo() not in none]


def _forget_other_stereo(mol: Chem.Mol, layout: dict[str, Any]) -> None:
    """Take away the stereo a reader found where the written molecule had none specified."""
    extra_atoms = set(_tagged_atoms(mol)) - set(layout["centers"])
    extra_bonds = set(_labelled_bonds(mol)) - set(layout["bonds"])
    for index in extra_atoms:
        mol.GetAtomWithIdx(index).SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for index in extra_bonds:
        bond = mol.GetBondWithIdx(index)
        bond.SetStereo(Chem.BondStereo.STEREONONE)
        for atom in (bond.GetBeginAtom(), bond.GetEndAtom()):
            for single in atom.GetBonds():
                if single.GetBondType() == Chem.BondType.SINGLE:
                    single.SetBondDir(Chem.BondDir.NONE)
    if extra_atoms or extra_bonds:
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def _as_text(value: Any) -> tuple[str, str]:
    """(type, text on one line) of a property."""
    if isinstance(value, bool):
        return "bool", str(int(value))
    if isinstance(value, int):
        return "int", str(value)
    if isinstance(value, float):
        return "float", repr(value)
    text = value if isinstance(value, str) else str(list(value))
    # Such text would end the field, or the record.
    if len(text.splitlines()) > 1 or text != text.strip() or text.startswith((">", "$$$$")):
        return "json", json.dumps(text)
    return "str", text


def _from_text(kind: str, text: str) -> Property:
    try:
        return _READ[kind](text)
    except ValueError:  # edited by hand
        return text
