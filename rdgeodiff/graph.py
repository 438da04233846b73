"""Molecular graphs as plain arrays, and their padded batches.

This is the meeting point of chemistry and learning: `chem.featurize` writes `MolGraph`s from
RDKit molecules, shards store them, and `MolBatch` turns them into the tensors a network reads.
Nothing here knows RDKit, so training runs on machines that have only numpy and torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

# One categorical code per column of `MolGraph.node_codes`; each is one-hot encoded with this width.
NODE_COLUMNS: dict[str, int] = {
    "element": 13,  # index into ELEMENTS; 0 is never used by a valid atom
    "charge": 5,  # -2, -1, 0, +1, +2 (clipped)
    "hybridization": 7,  # s, sp, sp2, sp3, sp3d, sp3d2, other
    "aromatic": 2,
    "hydrogens": 5,  # bonded hydrogens, explicit and implicit, clipped at 4
    "degree": 7,  # neighbours including hydrogens, clipped at 6
    "radicals": 3,
    "stereo": 2,  # takes part in the parity table (sign is not told here)
}
RING_SIZES = (3, 4, 5, 6, 7, 8)  # 8 stands for "eight or more" (macrocycles included)
NODE_DIM = sum(NODE_COLUMNS.values()) + len(RING_SIZES)

# Elements of the training data (Z); the position is the element code.
ELEMENTS = (0, 1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53)

BOND_CODES = {"none": 0, "single": 1, "double": 2, "triple": 3, "aromatic": 4, "other": 5}
MAX_TOPOLOGICAL_DISTANCE = 11  # further apart (or in another fragment) counts as 11
# pair_codes[..., 0]: bits 0-2 bond code, 3 conjugated, 4 bond in ring, 5 cis, 6 trans
CONJUGATED, RING_BOND, CIS, TRANS = 8, 16, 32, 64
# pair_codes[..., 1]: bits 0-3 topological distance, 4-6 smallest shared ring (0: none)
PAIR_DIM = len(BOND_CODES) + 4 + (MAX_TOPOLOGICAL_DISTANCE + 1) + len(RING_SIZES)

_Codes = TypeVar("_Codes", np.ndarray, torch.Tensor)

MAX_LOCAL_DISTANCE = 3  # pairs up to three bonds apart always exchange messages


class GraphError(ValueError):
    """A graph whose arrays contradict each other."""


@dataclass(frozen=True)
class MolGraph:
    """One molecule, hydrogens included; N atoms, P = N(N-1)/2 pairs i < j in row-major order.

    Attributes:
        atomic_numbers: (N,) uint8.
        node_codes: (N, len(NODE_COLUMNS) + 1) uint8; the last column is a bit mask over RING_SIZES.
        pair_codes: (P, 2) uint8, see the bit layout above.
        centers: (S, 5) int16 atom indices (centre, a, b, c, d) of every specified tetrahedral
            centre; with three neighbours d is the centre itself.
        parities: (S,) int8, +1 or -1: the sign of (a-d)·((b-d)×(c-d)) in a right conformer.
    """

    atomic_numbers: np.ndarray
    node_codes: np.ndarray
    pair_codes: np.ndarray
    centers: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.int16))
    parities: np.ndarray = field(default_factory=lambda: np.zeros((0,), np.int8))

    def __post_init__(self) -> None:
        n = len(self.atomic_numbers)
        if n == 0:
            raise GraphError("a graph needs at least one atom")
        if self.node_codes.shape != (n, len(NODE_COLUMNS) + 1):
            raise GraphError(f"node_codes has shape {self.node_codes.shape} for {n} atoms")
        if self.pair_codes.shape != (n * (n - 1) // 2, 2):
            raise GraphError(f"pair_codes has shape {self.pair_codes.shape} for {n} atoms")
        if self.centers.shape != (len(self.parities), 5):
            raise GraphError(
                f"centers has shape {self.centers.shape}, parities {self.parities.shape}"
            )
        if len(self.centers) and (self.centers.min() < 0 or self.centers.max() >= n):
            raise GraphError("a stereo centre names an atom outside the molecule")

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    def dense_pairs(self) -> np.ndarray:
        """Symmetric (N, N, 2) uint8 pair codes; the diagonal is zero."""
        n = self.n_atoms
        dense = np.zeros((n, n, 2), np.uint8)
        upper = np.triu_indices(n, 1)
        dense[upper] = self.pair_codes
        dense[upper[1], upper[0]] = self.pair_codes
        return dense


@dataclass
class MolBatch:
    """B graphs padded to N atoms and S stereo centres, on one device.

    Attributes:
        n_atoms: (B,) int64.
        mask: (B, N) bool, True on real atoms.
        node_codes: (B, N, C) uint8.
        pair_codes: (B, N, N, 2) uint8.
        centers: (B, S, 5) int64 and parities: (B, S) float32 (0 marks padding).
    """

    n_atoms: torch.Tensor
    mask: torch.Tensor
    node_codes: torch.Tensor
    pair_codes: torch.Tensor
    centers: torch.Tensor
    parities: torch.Tensor

    def __len__(self) -> int:
        return self.mask.shape[0]

    @staticmethod
    def collate(
        graphs: Sequence[MolGraph], *, pad_atoms: int | None = None, pad_centers: int | None = None
    ) -> MolBatch:
        """Pad `graphs` to common sizes; GraphError where one does not fit `pad_atoms`."""
        n_max = max(g.n_atoms for g in graphs)
        s_max = max(len(g.parities) for g in graphs)
        n_pad = n_max if pad_atoms is None else pad_atoms
        s_pad = s_max if pad_centers is None else pad_centers
        if n_max > n_pad or s_max > s_pad:
            raise GraphError(f"{n_max} atoms, {s_max} centres do not fit {n_pad}, {s_pad}")
        b = len(graphs)
        nodes = np.zeros((b, n_pad, len(NODE_COLUMNS) + 1), np.uint8)
        pairs = np.zeros((b, n_pad, n_pad, 2), np.uint8)
        mask = np.zeros((b, n_pad), bool)
        centers = np.zeros((b, s_pad, 5), np.int64)
        parities = np.zeros((b, s_pad), np.float32)
        for k, g in enumerate(graphs):
            n, s = g.n_atoms, len(g.parities)
            nodes[k, :n] = g.node_codes
            pairs[k, :n, :n] = g.dense_pairs()
            mask[k, :n] = True
            centers[k, :s] = g.centers
            parities[k, :s] = g.parities
        counts = np.array([g.n_atoms for g in graphs], np.int64)
        arrays = (counts, mask, nodes, pairs, centers, parities)
        return MolBatch(*(torch.from_numpy(a) for a in arrays))

    def to(self, device: torch.device | str) -> MolBatch:
        """The same batch on another device."""
        return self._each(lambda t: t.to(device, non_blocking=True))

    def clone(self) -> MolBatch:
        """A copy in memory of its own."""
        return self._each(torch.clone)

    def rows(self, index: torch.Tensor) -> MolBatch:
        """The graphs at `index` (K,) int64, which may name one more than once."""
        return self._each(lambda t: t[index])

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> MolBatch:
        return MolBatch(*(change(tensor) for tensor in vars(self).values()))


def node_features(codes: torch.Tensor) -> torch.Tensor:
    """Multi-hot float features (..., NODE_DIM) of uint8 `codes` (..., C)."""
    blocks = []
    for column, width in enumerate(NODE_COLUMNS.values()):
        blocks.append(_one_hot(codes[..., column], width))
    blocks.append(_bits(codes[..., len(NODE_COLUMNS)], len(RING_SIZES)))
    return torch.cat(blocks, -1)


def pair_features(codes: torch.Tensor) -> torch.Tensor:
    """Multi-hot float features (..., PAIR_DIM) of uint8 pair `codes` (..., 2)."""
    kind, place = codes[..., 0], codes[..., 1]
    return torch.cat(
        [
            _one_hot(kind & 7, len(BOND_CODES)),
            _bits(kind >> 3, 4),
            _one_hot(place & 15, MAX_TOPOLOGICAL_DISTANCE + 1),
            _one_hot(place >> 4, len(RING_SIZES) + 1)[..., 1:],
        ],
        -1,
    )


def is_local(codes: torch.Tensor) -> torch.Tensor:
    """Bool (...): pairs one to three bonds apart, from uint8 pair `codes` (..., 2)."""
    distance = codes[..., 1] & 15
    return (distance > 0) & (distance <= MAX_LOCAL_DISTANCE)


def is_hydrogen(codes: _Codes) -> _Codes:
    """Bool (...) from uint8 node codes (..., C), of numpy or torch."""
    return codes[..., 0] == ELEMENTS.index(1)


def _one_hot(values: torch.Tensor, width: int) -> torch.Tensor:
    classes = torch.arange(width, device=values.device, dtype=values.dtype)
    return (values.unsqueeze(-1) == classes).float()


def _bits(values: torch.Tensor, width: int) -> torch.Tensor:
    places = torch.arange(width, device=values.device, dtype=values.dtype)
    return ((values.unsqueeze(-1) >> places) & 1).float()
