"""GEOM as it is distributed: the official `rdkit_folder`, and GeoDiff's preprocessed files.

The folder holds one pickle a molecule and is read one molecule at a time. A preprocessed file
(`train_data_40k.pkl` and its like, from the code of ConfGF and GeoDiff) is a single pickle of
torch_geometric graphs, one per conformer, and has to be held in memory as a whole. Both are read by
`restricted_pickle`; the molecules in them stay RDKit's binary form here, so that RDKit is not
needed to look into the files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rdgeodiff.data.restricted_pickle import (
    PickleError,
    array_of,
    fields_of,
    load_restricted,
    mol_bytes,
)

DATASETS = ("qm9", "drugs")
KCAL_PER_HARTREE = 627.5095


class GeomError(ValueError):
    """Not a copy of GEOM, or a molecule of it that cannot be read."""


@dataclass(frozen=True)
class RawConformer:
    """One conformer as stored.

    Attributes:
        binary: RDKit's binary form of the molecule, with this conformer.
        positions: (N, 3) Å where they are stored beside the molecule, else None.
        weight: Boltzmann weight, or None.
        energy: kcal/mol on the molecule's own scale, or None.
    """

    binary: bytes
    positions: np.ndarray | None
    weight: float | None
    energy: float | None


@dataclass(frozen=True)
class RawMolecule:
    """One molecule as stored: its name in the source, its SMILES there, its conformers."""

    name: str
    smiles: str
    conformers: list[RawConformer]


class Source(Protocol):
    """Molecules by name; `names` is in the order of the source."""

    title: str

    @property
    def names(self) -> Sequence[str]: ...

    def read(self, name: str) -> RawMolecule: ...


class GeomFolder:
    """The official release: `summary_drugs.json`, `summary_qm9.json` and a pickle per molecule.

    Args:
        root: the unpacked `rdkit_folder`.
        dataset: "qm9" or "drugs".

    Raises:
        GeomError: neither a summary nor a folder of pickles for `dataset`.
    """

    def __init__(self, root: str | os.PathLike[str], dataset: str) -> None:
        self._root, self.dataset = Path(root), dataset
        self.title = f"{self._root.name}/{dataset}"
        path = self._root / f"summary_{dataset}.json"
        self.summary: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                self.summary = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise GeomError(f"{path}: not a summary of GEOM ({error})") from error
            if not isinstance(self.summary, dict):
                raise GeomError(f"{path}: not a summary of GEOM")
        elif not (self._root / dataset).is_dir():
            raise GeomError(f"{root}: holds neither {path.name} nor a folder {dataset}")
        self._smiles = {
            str(entry["pickle_path"]): smiles
            for smiles, entry in self.summary.items()
            if isinstance(entry, dict) and entry.get("pickle_path")
        }

    @property
    def names(self) -> Sequence[str]:
        """Pickle paths: those of the summary, in its order, or else those in the folder."""
        return list(self._smiles) if self.summary else self.sorted_names()

    def sorted_names(self) -> list[str]:
        """Paths of all pickles in the folder in alphabetical order, which index files count in."""
        with os.scandir(self._root / self.dataset) as entries:
            found = sorted(e.name for e in entries if e.name.endswith(".pickle"))
        return [f"{self.dataset}/{name}" for name in found]

    def read(self, name: str) -> RawMolecule:
        """The molecule of one pickle path.

        Raises:
            OSError: no such file.
            PickleError: damaged, or asks for more than data.
            GeomError: not a molecule of GEOM.
        """
        path = self._root / name
        if self._root.resolve() not in path.resolve().parents:
            raise GeomError(f"{name}: lies outside {self._root}")
        content = load_restricted(path.read_bytes())
        if not isinstance(content, dict) or not isinstance(content.get("conformers"), list):
            raise GeomError(f"{name}: holds no conformers")
        entries = content["conformers"]
        unique = content.get("uniqueconfs")
        if isinstance(unique, int):
            if unique > len(entries):
                raise GeomError(f"{name}: promises {unique} conformers and holds {len(entries)}")
            entries = entries[: max(unique, 0)]
        smiles = self._smiles.get(name) or content.get("smiles")
        if not isinstance(smiles, str):
            raise GeomError(f"{name}: has no SMILES")
        return RawMolecule(name, smiles, [_from_entry(entry, name) for entry in entries])


class PreprocessedFile:
    """A list of torch_geometric graphs with `rdmol`, `pos`, `smiles`, …; one per conformer.

    Graphs are of one molecule where their `idx` agrees, or without it their `smiles`. The packed
    form, with all conformers of a molecule in `pos_ref`, is read too.

    Raises:
        OSError: no such file.
        PickleError: damaged, or asks for more than data; names the file.
        GeomError: another kind of file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        self.title = path.stem
        try:
            content = load_restricted(path.read_bytes())
            if not isinstance(content, list):
                raise GeomError(f"{path}: not a list of graphs")
            self._graphs: dict[str, list[dict[str, Any]]] = {}
            for graph in content:
                fields = fields_of(graph)
                key = fields.get("smiles") if fields.get("idx") is None else _number(fields["idx"])
                self._graphs.setdefault(str(key), []).append(fields)
        except PickleError as error:
            raise type(error)(f"{path}: {error}") from error

    @property
    def names(self) -> Sequence[str]:
        """The numbers of the molecules (`idx`), or their SMILES, in the order of the file."""
        return list(self._graphs)

    def read(self, name: str) -> RawMolecule:
        """The molecule of one name.

        Raises:
            PickleError: its arrays cannot be read.
            GeomError: it is not what the code of GeoDiff writes.
        """
        graphs = self._graphs[name]
        smiles = graphs[0].get("smiles")
        if not isinstance(smiles, str):
            raise GeomError(f"molecule {name}: has no SMILES")
        conformers = [c for fields in graphs for c in _from_graph(fields)]
        return RawMolecule(name, smiles, conformers)


def open_source(path: str | os.PathLike[str], dataset: str = "") -> Source:
    """The `rdkit_folder` or preprocessed file at `path`.

    Args:
        path: folder or .pkl file.
        dataset: "qm9" or "drugs", for a folder; may be left out where it has only one of them.

    Raises:
        GeomError: which of the two is meant cannot be told, or it is neither.
    """
    path = Path(path)
    if path.is_file():
        return PreprocessedFile(path)
    there = [d for d in DATASETS if (path / f"summary_{d}.json").exists() or (path / d).is_dir()]
    if not dataset and len(there) != 1:
        what = f"holds {' and '.join(there)}; say which" if there else "is not a copy of GEOM"
        raise GeomError(f"{path}: {what}")
    return GeomFolder(path, dataset or there[0])


def _from_entry(entry: Any, name: str) -> RawConformer:
    if not isinstance(entry, dict):
        raise GeomError(f"{name}: a conformer is a {type(entry).__name__}")
    energy = entry.get("relativeenergy")
    if energy is None and entry.get("totalenergy") is not None:
        energy = KCAL_PER_HARTREE * _number(entry["totalenergy"])
    return RawConformer(
        mol_bytes(entry.get("rd_mol")),
        None,
        _optional(entry.get("boltzmannweight")),
        _optional(energy),
    )


def _from_graph(fields: dict[str, Any]) -> list[RawConformer]:
    binary = mol_bytes(fields.get("rdmol"))
    if fields.get("pos_ref") is not None:
        positions = array_of(fields["pos_ref"]).reshape(int(_number(fields["num_pos_ref"])), -1, 3)
        return [RawConformer(binary, p, None, None) for p in positions]
    energy = _optional(fields.get("totalenergy"))
    return [
        RawConformer(
            binary,
            array_of(fields["pos"]) if fields.get("pos") is not None else None,
            _optional(fields.get("boltzmannweight")),
            None if energy is None else KCAL_PER_HARTREE * energy,
        )
    ]


def _optional(value: Any) -> float | None:
    return None if value is None else float(_number(value))


def _number(value: Any) -> Any:
    array = array_of(value)
    if array.size != 1:
        raise PickleError(f"{array.size} numbers where one is expected")
    return array.reshape(-1)[0].item()
