"""GEOM's formats, built here in small: read without running them, cleaned, split, written."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import embedded, mol_from, positions_of
from rdkit import Chem

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.cli import main
from rdgeodiff.data.conformer_sets import ArchiveError, read_archive, write_archive
from rdgeodiff.data.geom import (
    KCAL_PER_HARTREE,
    GeomError,
    GeomFolder,
    PreprocessedFile,
    RawConformer,
    RawMolecule,
    open_source,
)
from rdgeodiff.data.geom_build import build_geom
from rdgeodiff.data.geom_ensembles import SkipCause, SkippedError, clean
from rdgeodiff.data.geom_splits import confgf_split, read_split, write_split
from rdgeodiff.data.restricted_pickle import (
    Inert,
    PickleError,
    PickleRefusedError,
    array_of,
    load_npy,
    load_restricted,
)
from rdgeodiff.data.shards import read_shard


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def shuffled(mol: Chem.Mol, seed: int = 0) -> Chem.Mol:
    """The molecule in another order of atoms: GEOM's is not that of its SMILES."""
    order = list(range(mol.GetNumAtoms()))
    random.Random(seed).shuffle(order)
    return Chem.RenumberAtoms(mol, order)


def conformers_of(mol: Chem.Mol) -> list[Chem.Mol]:
    """One Mol per conformer."""
    return [Chem.Mol(mol, False, c.GetId()) for c in mol.GetConformers()]


def entry(mol: Chem.Mol, weight: float, energy: float = 0.0) -> dict:
    """A conformer with the keys of the official release."""
    return {
        "geom_id": 1,
        "set": 1,
        "degeneracy": 2,
        "totalenergy": -10.0 + energy / KCAL_PER_HARTREE,
        "relativeenergy": energy,
        "boltzmannweight": weight,
        "conformerweights": [weight / 2, weight / 2],
        "rd_mol": mol,
    }


def molecule(smiles: str, mols: list[Chem.Mol]) -> dict:
    """The content of a molecule's pickle, heaviest conformer last."""
    entries = [entry(m, 0.1 * (k + 1), 1.5 * k) for k, m in enumerate(mols)]
    return {"smiles": smiles, "uniqueconfs": len(mols), "charge": 0, "conformers": entries}


def folder_of(root: Path, molecules: dict[str, list[Chem.Mol]], dataset: str = "drugs") -> Path:
    """An rdkit_folder."""
    (root / dataset).mkdir(parents=True)
    summary = {}
    for smiles, mols in molecules.items():
        path = f"{dataset}/{smiles.replace('/', '_')}.pickle"
        (root / path).write_bytes(pickle.dumps(molecule(smiles, mols), protocol=3))
        summary[smiles] = {"uniqueconfs": len(mols), "pickle_path": path, "charge": 0}
    (root / f"summary_{dataset}.json").write_text(json.dumps(summary))
    return root


MOLECULES = {
    "CCC(=O)N": 3,
    "C[C@H](F)Cl": 2,
    "C[C@H](O)[C@@H](F)Br": 2,
    "C/C=C/CO": 4,
    "CC([O-])=O": 2,
}


@pytest.fixture(scope="module")
def geom(tmp_path_factory) -> Path:
    made = {s: conformers_of(shuffled(embedded(s, n))) for s, n in MOLECULES.items()}
    return folder_of(tmp_path_factory.mktemp("geom") / "rdkit_folder", made)


def raw(smiles: str, mols: list[Chem.Mol], weights: list[float] | None = None) -> RawMolecule:
    weights = weights or [1.0] * len(mols)
    parts = [
        RawConformer(m.ToBinary(), None, w, float(k))
        for k, (m, w) in enumerate(zip(mols, weights, strict=True))
    ]
    return RawMolecule("x", smiles, parts)


# Pickles


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numbers_survive_every_protocol(protocol):
    content = {
        "tensor": torch.arange(12.0).reshape(3, 4).t()[1:],
        "whole": torch.arange(3),
        "array": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "swapped": np.arange(3, dtype=">i4"),
        "scalar": np.float64(2.5),
        "plain": [1, 2, 3],
    }
    found = load_restricted(pickle.dumps(content, protocol=protocol))
    for name, value in content.items():
        np.testing.assert_array_equal(array_of(found[name]), np.asarray(value))


@pytest.mark.parametrize(
    "call",
    [
        Calls(eval, "open('{victim}', 'w')"),
        Calls(os.mkdir, "{victim}"),
        Calls(getattr, torch, "load"),
        Calls(torch.load, "{victim}"),
        Calls(np.load, "{victim}"),
        Calls(types.SimpleNamespace),
    ],
)
def test_other_names_are_refused_and_nothing_is_run(call, tmp_path):
    victim = tmp_path / "victim"
    function, arguments = call.call
    filled = [a.replace("{victim}", str(victim)) if isinstance(a, str) else a for a in arguments]
    if function is getattr:
        filled = ["text", "upper"]
    program = pickle.dumps({"conformers": Calls(function, *filled)}, protocol=3)
    with pytest.raises(PickleRefusedError, match=r"asks for [\w.]+, which"):
        load_restricted(program)
    assert not victim.exists()


def test_a_tensor_cannot_carry_code(tmp_path):
    victim = tmp_path / "victim"
    stored = pickle.dumps(Calls(os.mkdir, str(victim)), protocol=2)
    load = torch.storage._load_from_bytes
    program = pickle.dumps(
        Calls(torch._utils._rebuild_tensor_v2, Calls(load, stored), 0, (1,), (1,), False, {})
    )
    with pytest.raises(PickleError, match="cannot be read"):
        array_of(load_restricted(program))
    assert not victim.exists()


def test_nothing_of_a_file_is_built_or_left_behind():
    program = pickle.dumps(Chem.MolFromSmiles("CO"), protocol=3)
    first, second = load_restricted(program), load_restricted(program)
    assert isinstance(first, Inert) and type(first) is not type(second)
    for damaged in (b"", program[:-10], b"\x80\x03r\xff\xff\xff\xffN.", b"garbage"):
        with pytest.raises(PickleError, match="damaged"):
            load_restricted(damaged)
    for wrong in ("text", first, {"a": 1}, Calls(np.ndarray, 1)):
        with pytest.raises(PickleError):
            array_of(wrong)


# Splits


def test_index_files_of_objects_and_numbers(tmp_path, geom):
    names = GeomFolder(geom, "drugs").sorted_names()
    assert names == sorted(names) and len(names) == len(MOLECULES)
    parts = np.empty(3, object)
    parts[:] = [np.array([3, 0]), np.array([1]), np.array([4, 2])]
    objects, plain, equal = (tmp_path / f"{n}.npy" for n in ("split0", "plain", "equal"))
    np.save(objects, parts, allow_pickle=True)
    np.save(plain, np.array([2, 1]))
    np.save(equal, np.arange(3)[:, None])
    assert read_split(objects, "train", names) == [names[0], names[3]]
    assert read_split(objects, "test", names) == [names[2], names[4]]
    assert read_split(plain, "test", names) == [names[1], names[2]]
    assert read_split(equal, "val", names) == [names[1]]
    with pytest.raises(GeomError, match="another copy"):
        read_split(objects, "test", names[:4])


def test_an_index_file_cannot_carry_code(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "split0.npy"
    poison = np.empty(3, object)
    poison[:] = [Calls(os.mkdir, str(victim))] * 3
    np.save(path, poison, allow_pickle=True)
    with pytest.raises(PickleRefusedError, match=r"split0\.npy: asks for"):
        read_split(path, "test", ["a"])
    assert not victim.exists()
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(PickleError, match="not an array"):
        load_npy(path)


def test_written_splits_are_read_back(tmp_path):
    path = tmp_path / "split.json"
    write_split(path, {"train": ["a", "b"], "test": ["c"]})
    assert read_split(path, "test") == ["c"]
    with pytest.raises(GeomError, match="'val'"):
        read_split(path, "val")
    path.write_text('["d"]')
    assert read_split(path, "val") == ["d"]
    path.write_text("[1]")
    with pytest.raises(GeomError, match="names"):
        read_split(path, "val")


def test_the_papers_draw():
    """Sizes, eligibility and disjointness; the names are pinned, as the seed is part of it."""
    counts = [k % 120 for k in range(400)]
    summary = {f"C{k}": {"uniqueconfs": n, "pickle_path": f"p{k}"} for k, n in enumerate(counts)}
    summary["bad"] = {"uniqueconfs": 60}
    of = {entry["pickle_path"]: entry["uniqueconfs"] for entry in list(summary.values())[:-1]}
    split = confgf_split(summary, "drugs", molecules=100, tests=10)
    assert {k: len(v) for k, v in split.items()} == {"train": 80, "val": 10, "test": 10}
    assert min(of[n] for n in split["train"] + split["val"]) >= 5
    assert all(50 <= of[n] <= 100 for n in split["test"])
    assert not set(split["test"]) & {*split["train"], *split["val"]}
    assert split == confgf_split(summary, "drugs", molecules=100, tests=10)
    reference = random.Random(2021)
    drawn = [name for name, count in of.items() if count >= 5]
    reference.shuffle(drawn)
    assert {*split["train"], *split["val"]} < set(drawn[:100])
    with pytest.raises(GeomError, match="50000 molecules"):
        confgf_split(summary, "qm9")


# Cleaning


def test_positions_come_in_the_order_of_the_smiles(geom):
    source = GeomFolder(geom, "drugs")
    for name, smiles in zip(source.names, MOLECULES, strict=True):
        found = clean(source.read(name))
        mol = found.reference.mol
        assert Chem.MolToSmiles(mol) == Chem.MolToSmiles(mol_from(found.reference.smiles))
        original = embedded(smiles, MOLECULES[smiles])
        same = rmsd_matrix(original, positions_of(original), positions_of(original)).values
        order = original.GetSubstructMatch(mol, useChirality=True)
        moved = positions_of(original)[:, list(order)]
        np.testing.assert_allclose(
            rmsd_matrix(mol, found.reference.positions, moved).values, same, atol=1e-5
        )
        assert not found.dropped
        np.testing.assert_allclose(
            found.reference.energies, 1.5 * np.arange(MOLECULES[smiles]), atol=1e-9
        )


def test_open_stereochemistry_is_taken_from_the_conformers():
    mols = conformers_of(shuffled(embedded("C[C@H](F)[C@@H](O)Cl", 2)))
    for m in mols:
        Chem.RemoveStereochemistry(m)
    found = clean(raw("CC(F)C(O)Cl", mols))
    assert found.reference.smiles == Chem.CanonSmiles("C[C@H](F)[C@@H](O)Cl")
    assert not found.stereo_changed and len(found.graph.parities) == 2
    other = clean(raw("C[C@@H](F)[C@@H](O)Cl", mols))
    assert other.stereo_changed and other.reference.smiles == found.reference.smiles


def test_conformers_that_do_not_fit_are_dropped_by_cause():
    smiles = "C[C@H](F)Cl"
    mols = conformers_of(embedded(smiles, 2))
    mirrored, reacted = Chem.Mol(mols[0]), embedded("FCCCl")
    mirrored.GetConformer().SetPositions(mols[0].GetConformer().GetPositions() * [1, 1, -1])
    far = Chem.Mol(mols[0])
    far.GetConformer().SetAtomPosition(0, (100.0, 0.0, 0.0))
    nothing = mol_from(smiles)
    every = [mols[0], mirrored, reacted, far, nothing, mols[1]]
    found = clean(raw(smiles, every, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    assert found.dropped == {"OTHER_STEREO": 1, "OTHER_GRAPH": 1, "BROKEN": 2}
    assert len(found.reference.positions) == 2
    # The heaviest conformer decides the stereochemistry.
    found = clean(raw(smiles, every[:2], [1.0, 2.0]))
    assert found.stereo_changed and found.dropped == {"OTHER_STEREO": 1}


def test_other_places_of_charges_and_equal_halves_are_the_same_molecule():
    mol = embedded("CC([O-])=O", 1)
    swapped = Chem.RWMol(mol)
    first, second = (a for a in swapped.GetAtoms() if a.GetAtomicNum() == 8)
    carbon = first.GetNeighbors()[0].GetIdx()
    for atom in (first, second):
        bond = swapped.GetBondBetweenAtoms(atom.GetIdx(), carbon)
        charged = atom.GetFormalCharge() == -1
        bond.SetBondType(Chem.BondType.DOUBLE if charged else Chem.BondType.SINGLE)
        atom.SetFormalCharge(0 if charged else -1)
    found = clean(raw("CC([O-])=O", [mol, swapped.GetMol()]))
    assert not found.dropped and len(found.reference.positions) == 2
    graph = featurize(found.reference.mol)
    assert (graph.pair_codes == found.graph.pair_codes).all()


def test_the_heaviest_are_taken_first():
    mols = conformers_of(embedded("CCCCO", 4))
    found = clean(raw("CCCCO", mols, [0.1, 0.4, 0.2, 0.3]), conformers=2)
    np.testing.assert_allclose(found.reference.energies, [0.0, 2.0])  # rows 1 and 3, from row 1


@pytest.mark.parametrize(
    ("given", "made", "limits", "cause"),
    [
        ("CCO", None, {}, SkipCause.NO_CONFORMERS),
        ("C(", "CCO", {}, SkipCause.INVALID_SMILES),
        ("COC", "CCO", {}, SkipCause.OTHER_GRAPH),
        ("C[Se]C", "C[Se]C", {}, SkipCause.UNSUPPORTED_ATOM),
        ("CCO", "CCO", {"max_atoms": 8}, SkipCause.TOO_LARGE),
        ("CCO", "CCO", {"least": 2}, SkipCause.TOO_FEW_CONFORMERS),
    ],
)
def test_molecules_are_skipped_by_cause(given, made, limits, cause):
    mols = [] if made is None else [embedded(made)]
    with pytest.raises(SkippedError) as skipped:
        clean(raw(given, mols), **limits)
    assert skipped.value.cause == cause


# Files


def test_shards_and_archives_in_parts(geom, tmp_path):
    source = open_source(geom)
    report = build_geom(source, tmp_path / "a", conformers_per_file=5, progress=False)
    assert report.molecules == len(MOLECULES) and report.conformers == sum(MOLECULES.values())
    assert report.files == ["part-0000.npz", "part-0001.npz", "part-0002.npz"]
    shards = [read_shard(tmp_path / "a" / f) for f in report.files]
    assert [s.n_confs.tolist() for s in shards] == [[3, 2], [2, 4], [2]]
    build_geom(source, tmp_path / "b", kind="archive", conformers=2, progress=False)
    molecules = list(read_archive(tmp_path / "b" / "part-0000.npz"))
    assert [len(m.positions) for m in molecules] == [2] * 5
    for shard, k, m in zip([shards[0]] * 2, (0, 1), molecules[:2], strict=True):
        assert (shard.graph(k).pair_codes == featurize(m.mol).pair_codes).all()
        assert rmsd_matrix(m.mol, m.positions, shard.conformers(k)).values.min(1).max() < 0.002


def test_a_stopped_run_goes_on(geom, tmp_path, monkeypatch):
    source = open_source(geom)
    whole = build_geom(source, tmp_path / "whole", conformers_per_file=4, progress=False)
    read, seen = GeomFolder.read, []

    def interrupted(self, name):
        seen.append(name)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return read(self, name)

    monkeypatch.setattr(GeomFolder, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_geom(source, tmp_path / "cut", conformers_per_file=4, progress=False)
    again = build_geom(source, tmp_path / "cut", conformers_per_file=4, progress=False)
    assert again == whole and len(seen) == 4 + len(MOLECULES) - 2
    for file in whole.files:
        first, second = (read_shard(tmp_path / n / file) for n in ("whole", "cut"))
        np.testing.assert_array_equal(first.conformers(0), second.conformers(0))
    with pytest.raises(GeomError, match="another conformers_per_file"):
        build_geom(source, tmp_path / "cut", conformers_per_file=5, progress=False)


def test_bad_files_cost_their_molecule_only(tmp_path):
    good = {s: conformers_of(embedded(s, 1)) for s in ("CCO", "CCN", "CCC", "COC", "CCF")}
    root = folder_of(tmp_path / "geom", good, "qm9")
    victim = tmp_path / "victim"
    poison = {"smiles": "CCN", "conformers": [Calls(os.mkdir, str(victim))]}
    (root / "qm9/CCN.pickle").write_bytes(pickle.dumps(poison))
    (root / "qm9/CCC.pickle").write_bytes(b"\x80\x03")
    (root / "qm9/COC.pickle").unlink()
    short = molecule("CCF", good["CCF"]) | {"uniqueconfs": 7}
    (root / "qm9/CCF.pickle").write_bytes(pickle.dumps(short))
    report = build_geom(open_source(root), tmp_path / "out", progress=False)
    assert report.molecules == 1 and not victim.exists()
    assert report.skipped == {"REFUSED_PICKLE": 1, "DAMAGED": 2, "MISSING_FILE": 1}
    rows = (tmp_path / "out/part.skipped.tsv").read_text().splitlines()
    assert len(rows) == 5 and rows[1].startswith("qm9/CCN.pickle\tREFUSED_PICKLE\tasks for")
    with pytest.raises(GeomError, match="outside"):
        open_source(root).read("../victim")
    with pytest.raises(GeomError, match="nothing could be taken"):
        build_geom(open_source(root), tmp_path / "none", ["qm9/CCC.pickle"], progress=False)


def _geometric(monkeypatch, version: int) -> type:
    """Classes that pickle as those of torch_geometric 1 and 2 do."""
    data, storage = (types.ModuleType(f"torch_geometric.data.{n}") for n in ("data", "storage"))
    parents = (types.ModuleType(n) for n in ("torch_geometric", "torch_geometric.data"))
    for module in (*parents, data, storage):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def made(module, name):
        kind = type(name, (), {"__module__": module.__name__})
        setattr(module, name, kind)
        return kind

    graph, store = made(data, "Data"), made(storage, "GlobalStorage")
    classes = {"_edge_attr_cls": made(data, "DataEdgeAttr")}
    classes["_tensor_attr_cls"] = made(data, "DataTensorAttr")

    def build(**fields):
        item = graph()
        if version == 1:
            empty = dict.fromkeys(("x", "edge_attr", "y", "normal", "face"))
            item.__dict__.update(empty | fields)
        else:
            inner = store()
            inner.__dict__.update({"_parent": item, "_mapping": fields})
            item.__dict__.update(classes | {"_store": inner})
        return item

    return build  # type: ignore[return-value]


@pytest.mark.parametrize("version", [1, 2])
def test_preprocessed_files(version, tmp_path, monkeypatch):
    build = _geometric(monkeypatch, version)
    graphs, every = [], []
    for k, (smiles, count) in enumerate(MOLECULES.items()):
        for n, mol in enumerate(conformers_of(shuffled(embedded(smiles, count)))):
            positions = torch.tensor(mol.GetConformer().GetPositions(), dtype=torch.float32)
            labels = {"totalenergy": torch.tensor([-1.0 + n / KCAL_PER_HARTREE])}
            if version == 1:
                labels["idx"] = torch.tensor([k])
            labels["boltzmannweight"] = torch.tensor([0.5 - 0.1 * n])
            numbers = torch.tensor([a.GetAtomicNum() for a in mol.GetAtoms()])
            graphs.append(
                build(pos=positions, atom_type=numbers, rdmol=mol, smiles=smiles, **labels)
            )
            every.append(positions)
    path = tmp_path / "train_data_0k.pkl"
    path.write_bytes(pickle.dumps(graphs, protocol=3))
    source = open_source(path)
    assert list(source.names) == (list("01234") if version == 1 else list(MOLECULES))
    for name, count in zip(source.names, MOLECULES.values(), strict=True):
        found = clean(source.read(name))
        assert len(found.reference.positions) == count and not found.dropped
        np.testing.assert_allclose(found.reference.energies, np.arange(count), atol=2e-4)
    packed = build(
        pos_ref=torch.cat(every[:3]),
        num_pos_ref=torch.tensor([3]),
        rdmol=conformers_of(shuffled(embedded("CCC(=O)N", 3)))[0],
        smiles="CCC(=O)N",
    )
    path.write_bytes(pickle.dumps([packed], protocol=3))
    found = clean(open_source(path).read("CCC(=O)N"))
    assert len(found.reference.positions) == 3 and found.reference.energies is None


def test_what_is_no_geom_is_named(tmp_path, geom):
    with pytest.raises(GeomError, match="not a copy of GEOM"):
        open_source(tmp_path)
    with pytest.raises(GeomError, match="summary_qm9"):
        GeomFolder(geom, "qm9")
    other = tmp_path / "x.pkl"
    for content, message in (({"a": 1}, "not a list"), ([1], "not a graph")):
        other.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=f"x.pkl: {message}"):
            PreprocessedFile(other)
    (tmp_path / "qm9").mkdir()
    (tmp_path / "summary_drugs.json").write_text("{}")
    with pytest.raises(GeomError, match="say which"):
        open_source(tmp_path)


def test_a_folder_without_summary_is_listed(geom, tmp_path):
    (tmp_path / "geom").mkdir()
    (tmp_path / "geom" / "drugs").symlink_to(geom / "drugs")
    source = open_source(tmp_path / "geom")
    assert list(source.names) == GeomFolder(geom, "drugs").sorted_names()


def test_archives_refuse_what_they_could_not_give_back(tmp_path, geom):
    found = clean(GeomFolder(geom, "drugs").read("drugs/CCC(=O)N.pickle")).reference
    path = tmp_path / "a.npz"
    write_archive(path, [found])
    (back,) = read_archive(path)
    assert np.abs(back.positions - found.positions).max() < 0.0006
    np.testing.assert_allclose(back.energies, found.energies)
    for change in ({"smiles": "NC(=O)CC"}, {"smiles": "C("}, {"positions": found.positions * 99}):
        with pytest.raises(ArchiveError, match="molecule 1"):
            write_archive(path, [found, dataclasses.replace(found, **change)])
    with pytest.raises(ArchiveError, match="no molecules"):
        write_archive(path, [])
    assert len(list(read_archive(path))) == 1


def test_the_command(geom, tmp_path, capsys):
    split = tmp_path / "split0.npy"
    parts = np.empty(3, object)
    parts[:] = [np.array([0, 1, 2]), np.array([3]), np.array([4])]
    np.save(split, parts, allow_pickle=True)
    names = tmp_path / "names.json"
    call = ["dataset", "geom", str(geom), str(tmp_path / "out"), "--quiet", "--split"]
    assert main([*call, str(split), "--write-split", str(names), "--conformers", "2"]) == 0
    assert "3 molecules, 6 conformers in 1 files" in capsys.readouterr().out
    assert main([*call, str(names), "--part", "test", "--kind", "archive"]) == 0
    assert len(list(read_archive(tmp_path / "out" / "test-0000.npz"))) == 1
    assert main([*call, "confgf"]) == 2
    assert "50000 molecules to draw" in capsys.readouterr().err
