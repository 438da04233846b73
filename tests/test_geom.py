"""GEOM's files, built here in small: every format is read, damage costs its molecule only."""

from __future__ import annotations

import dataclasses
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from geom_files import MOLECULES, conformers_of, folder_of, geom_folder, molecule, shuffled
from helpers import Calls, embedded

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.chem.rmsd import rmsd_matrix
from rdgeodiff.cli import main
from rdgeodiff.data.conformer_sets import ArchiveError, read_archive, write_archive
from rdgeodiff.data.geom import (
    KCAL_PER_HARTREE,
    GeomError,
    GeomFolder,
    PreprocessedFile,
    open_source,
)
from rdgeodiff.data.geom_build import build_geom
from rdgeodiff.data.geom_ensembles import clean
from rdgeodiff.data.shards import read_shard


@pytest.fixture(scope="module")
def geom(tmp_path_factory) -> Path:
    return geom_folder(tmp_path_factory.mktemp("geom") / "rdkit_folder")


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
