"""Shards: featurised molecules with reference conformers in one compressed file.

A shard holds plain numeric arrays only (no pickle), so it is safe to open, small enough to carry to
a machine with an accelerator, and readable without RDKit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdgeodiff.data.arrays import ArraysError, read_arrays
from rdgeodiff.graph import NODE_COLUMNS, GraphError, MolGraph

FORMAT = 1
_ARRAYS = {
    "n_atoms": (np.int16, 1),
    "n_confs": (np.int16, 1),
    "n_centers": (np.int16, 1),
    "atomic_numbers": (np.uint8, 1),
    "node_codes": (np.uint8, 2),
    "pair_codes": (np.uint8, 2),
    "centers": (np.int16, 2),
    "parities": (np.int8, 1),
    "coords": (np.int16, 2),
}
_ENERGIES = "energies"  # (Σ n_confs,) float32; only where every molecule has them


class ShardError(ValueError):
    """A file that is not a readable shard; the message names the file and the fault."""


@dataclass(frozen=True)
class Reference:
    """A molecule with its reference conformers: positions (C, N, 3) in Å and, where known, their
    energies (C,) in kcal/mol above any common zero."""

    graph: MolGraph
    positions: np.ndarray
    energies: np.ndarray | None = None


class Shard:
    """Read access to one shard by molecule index."""

    def __init__(self, arrays: dict[str, np.ndarray], name: str = "shard") -> None:
        self.name = name
        self._arrays = arrays
        if not len(self.n_atoms) == len(self.n_confs) == len(arrays["n_centers"]):
            raise ShardError(f"{self.name}: counts of molecules disagree")
        atoms = self.n_atoms.astype(np.int64)
        sizes = {
            "atoms": atoms,
            "pairs": atoms * (atoms - 1) // 2,
            "centers": arrays["n_centers"].astype(np.int64),
            "coords": atoms * self.n_confs,
            "confs": self.n_confs.astype(np.int64),
        }
        self._offset = {k: np.concatenate([[0], np.cumsum(v)]) for k, v in sizes.items()}
        self._check(sizes)

    @property
    def n_atoms(self) -> np.ndarray:
        """(M,) atoms of each molecule."""
        return self._arrays["n_atoms"]

    @property
    def n_confs(self) -> np.ndarray:
        """(M,) conformers of each molecule."""
        return self._arrays["n_confs"]

    @property
    def n_centers(self) -> np.ndarray:
        """(M,) specified tetrahedral centres of each molecule."""
        return self._arrays["n_centers"]

    def __len__(self) -> int:
        return len(self.n_atoms)

    def graph(self, index: int) -> MolGraph:
        """The graph of molecule `index`; ShardError if its arrays contradict each other."""
        atoms = self._slice("atoms", index)
        centers = self._slice("centers", index)
        a = self._arrays
        try:
            return MolGraph(
                a["atomic_numbers"][atoms],
                a["node_codes"][atoms],
                a["pair_codes"][self._slice("pairs", index)],
                a["centers"][centers],
                a["parities"][centers],
            )
        except GraphError as error:
            raise ShardError(f"{self.name}: molecule {index}: {error}") from error

    def conformer(self, index: int, which: int) -> np.ndarray:
        """Positions (N, 3) float32 in Å of conformer `which` of molecule `index`."""
        n = int(self.n_atoms[index])
        start = self._offset["coords"][index] + n * which
        return self._arrays["coords"][start : start + n].astype(np.float32) / 1000.0

    def conformers(self, index: int) -> np.ndarray:
        """All conformers (C, N, 3) float32 in Å of molecule `index`."""
        block = self._arrays["coords"][self._slice("coords", index)].astype(np.float32) / 1000.0
        return block.reshape(int(self.n_confs[index]), -1, 3)

    def energies(self, index: int) -> np.ndarray | None:
        """(C,) kcal/mol of the conformers of molecule `index` above its lowest; None: not known."""
        if _ENERGIES not in self._arrays:
            return None
        own = self._arrays[_ENERGIES][self._slice("confs", index)]
        return own - own.min(initial=np.inf) if len(own) else own

    def _slice(self, kind: str, index: int) -> slice:
        return slice(self._offset[kind][index], self._offset[kind][index + 1])

    def _check(self, sizes: dict[str, np.ndarray]) -> None:
        expected = {
            "atomic_numbers": "atoms",
            "node_codes": "atoms",
            "pair_codes": "pairs",
            "centers": "centers",
            "parities": "centers",
            "coords": "coords",
        }
        if _ENERGIES in self._arrays:
            expected[_ENERGIES] = "confs"
            if not np.isfinite(self._arrays[_ENERGIES]).all():
                raise ShardError(f"{self.name}: energies are not finite")
        if any((v < 0).any() for v in sizes.values()) or (self.n_atoms < 1).any():
            raise ShardError(f"{self.name}: negative or empty molecule sizes")
        for array, kind in expected.items():
            found, wanted = len(self._arrays[array]), int(self._offset[kind][-1])
            if found != wanted:
                raise ShardError(f"{self.name}: {array} has {found} rows, not {wanted}")
        if self._arrays["node_codes"].shape[1:] != (len(NODE_COLUMNS) + 1,):
            raise ShardError(f"{self.name}: made for another feature table; build it again")
        if self._arrays["pair_codes"].shape[1:] != (2,) or self._arrays["coords"].shape[1:] != (3,):
            raise ShardError(f"{self.name}: pair codes or coordinates have a wrong shape")
        if self._arrays["centers"].shape[1:] != (5,):
            raise ShardError(f"{self.name}: stereo centres have a wrong shape")


def read_shard(path: str | os.PathLike[str]) -> Shard:
    """Open a shard written by `write_shard`.

    Raises:
        ShardError: missing, truncated or foreign file.
    """
    path = Path(path)
    try:
        arrays = read_arrays(path)
    except ArraysError as error:
        raise ShardError(str(error)) from error
    missing = {"format", *_ARRAYS} - arrays.keys()
    if missing:
        raise ShardError(f"{path}: not a shard (no {', '.join(sorted(missing))})")
    kind = arrays["format"]
    if kind.shape != () or kind.dtype.kind not in "iu" or int(kind) != FORMAT:
        raise ShardError(f"{path}: shard format {kind}, not {FORMAT}")
    types: dict[str, tuple[type, int]] = dict(_ARRAYS)
    if _ENERGIES in arrays:
        types[_ENERGIES] = (np.float32, 1)
    for name, (dtype, ndim) in types.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != ndim:
            raise ShardError(f"{path}: array {name} has a wrong type")
    try:
        return Shard({name: arrays[name] for name in types}, path.name)
    except GraphError as error:
        raise ShardError(f"{path}: {error}") from error


def write_shard(path: str | os.PathLike[str], references: Iterable[Reference]) -> int:
    """Write `references` to one shard and return their number; the file appears when complete.

    Energies are stored where every molecule has them.

    Positions are stored in 0.001 Å steps, each conformer centred; 32 Å from the centroid is the
    furthest an atom may lie (ShardError beyond).
    """
    path = Path(path)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _ARRAYS}
    energies: list[np.ndarray] = []
    count = 0
    for item in references:
        graph, positions = item.graph, np.asarray(item.positions, np.float64)
        if positions.ndim != 3 or positions.shape[1:] != (graph.n_atoms, 3):
            raise ShardError(
                f"molecule {count}: positions {positions.shape} for {graph.n_atoms} atoms"
            )
        if not np.isfinite(positions).all():
            raise ShardError(f"molecule {count}: positions are not finite")
        thousandths = np.rint(1000.0 * (positions - positions.mean(1, keepdims=True)))
        if len(positions) and np.abs(thousandths).max() > np.iinfo(np.int16).max:
            raise ShardError(f"molecule {count}: an atom lies more than 32 Å from the centroid")
        row = {
            "n_atoms": [graph.n_atoms],
            "n_confs": [len(positions)],
            "n_centers": [len(graph.parities)],
            "atomic_numbers": graph.atomic_numbers,
            "node_codes": graph.node_codes,
            "pair_codes": graph.pair_codes,
            "centers": graph.centers,
            "parities": graph.parities,
            "coords": thousandths.reshape(-1, 3),
        }
        for name, (dtype, _) in _ARRAYS.items():
            columns[name].append(np.asarray(row[name]).astype(dtype))
        if item.energies is not None:
            own = np.asarray(item.energies, np.float32)
            if own.shape != (len(positions),) or not np.isfinite(own).all():
                raise ShardError(
                    f"molecule {count}: energies must be {len(positions)} finite numbers"
                )
            energies.append(own)
        count += 1
    if count == 0:
        raise ShardError(f"{path}: no molecules to write")
    temporary = path.with_suffix(".partial.npz")
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    if len(energies) == count:
        joined[_ENERGIES] = np.concatenate(energies)
    np.savez_compressed(temporary, allow_pickle=False, format=np.int64(FORMAT), **joined)
    os.replace(temporary, path)
    return count
