"""Molecules without their hydrogens, and places for hydrogens on a skeleton that is there.

Half of a drug's atoms are hydrogens, and three quarters of its pairs of atoms hold one. How it
folds is a matter of its heavy atoms; hydrogens follow them but for the turn of a methyl or hydroxyl
group. Node codes tell how many hydrogens an atom has, so a skeleton says all of a molecule that a
whole graph does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from rdgeodiff.graph import NODE_COLUMNS, MolGraph, is_hydrogen

FEWEST = 4  # heavy atoms; of smaller skeletons networks have seen none
_HYBRIDIZATION = list(NODE_COLUMNS).index("hybridization")
_SP, _SP2 = 1, 2  # codes of hybridization
# Å from an atom to its hydrogen, by atomic number.
_LENGTHS = {5: 1.19, 6: 1.09, 7: 1.01, 8: 0.97, 14: 1.48, 15: 1.42, 16: 1.34}
_TETRAHEDRAL, _RIGHT = math.acos(-1 / 3), math.radians(96.0)
_NARROW = (15, 16)  # whose end groups have angles of nearly 90°
_FREE, _EITHER = math.tau, math.pi  # how far a group can be turned, and whether by halves


@dataclass(frozen=True)
class Skeleton:
    """The H heavy atoms of a molecule of N, and how its K hydrogens sit on them.

    A hydrogen's direction is at `tilt` from the axis of its atom, which leads away from the heavy
    neighbours, and at `azimuth` around it.

    Attributes:
        graph: of the heavy atoms; where a hydrogen stood in the table of specified centres, the
            centre itself stands, as it does for centres with three neighbours.
        atoms: (H,) indices of the heavy atoms in the molecule.
        hydrogens: (K,) those of the hydrogens.
        parents: (K,) atoms they are bonded to; these and all below are indices in the skeleton.
        neighbors: (K, M) heavy neighbours of the parents; a parent where there are fewer than M.
        beyond: (K,) another neighbour of the only neighbour, to find the plane of an end group by;
            the parent where there is none.
        lengths, tilts, azimuths: (K,) Å and radians.
        turns: (K,) radians by which an azimuth may differ, all of a parent's alike: 2π for any
            angle in between, π for one of two, 0 for none.
    """

    graph: MolGraph
    atoms: np.ndarray
    hydrogens: np.ndarray
    parents: np.ndarray
    neighbors: np.ndarray
    beyond: np.ndarray
    lengths: np.ndarray
    tilts: np.ndarray
    azimuths: np.ndarray
    turns: np.ndarray

    def with_hydrogens(self, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Positions (N, 3) in Å of all atoms, from those of the heavy ones (H, 3).

        Bonds and angles are ideal ones, what turns freely is turned at random: a start for a
        network that knows all atoms, and no geometry to be shown.
        """
        parents = positions[self.parents]
        arms = _unit(positions[self.neighbors] - parents[:, None])  # zero where there is none
        apart = np.cross(arms[:, 0], arms[:, 1]) if arms.shape[1] > 1 else np.zeros_like(parents)
        axis = -arms.sum(1)
        # Three neighbours in a plane with their atom leave either side of it.
        axis = np.where(_norm(axis) > 0.1, axis, apart)
        axis = np.where(_norm(axis) > 0.01, axis, _across(arms[:, 0]))
        axis = _unit(np.where(_norm(axis) > 0.01, axis, (0.0, 0.0, 1.0)))
        plane = positions[self.beyond] - parents
        first = np.where(_norm(apart) > 0.01, apart, plane)
        first = first - (first * axis).sum(-1, keepdims=True) * axis
        first = _unit(np.where(_norm(first) > 0.01, first, _across(axis)))
        # One number for each parent: the hydrogens of a methyl group turn together.
        drawn = rng.random(len(self.atoms))[self.parents]
        halves = np.where(self.turns == _EITHER, np.round(drawn), drawn)
        azimuth = (self.azimuths + halves * self.turns)[:, None]
        around = np.cos(azimuth) * first + np.sin(azimuth) * np.cross(axis, first)
        tilt = self.tilts[:, None]
        directions = np.cos(tilt) * axis + np.sin(tilt) * around
        whole = np.empty((len(self.atoms) + len(self.hydrogens), 3))
        whole[self.atoms] = positions
        whole[self.hydrogens] = parents + self.lengths[:, None] * directions
        return whole


def skeleton(graph: MolGraph) -> Skeleton | None:
    """The skeleton of a molecule, or None where its hydrogens have to stay.

    That is where there are none, fewer than `FEWEST` heavy atoms, or a hydrogen that is not bonded
    to one heavy atom.
    """
    hydrogen = is_hydrogen(graph.node_codes)
    atoms = np.flatnonzero(~hydrogen)
    if not hydrogen.any() or len(atoms) < FEWEST:
        return None
    dense = graph.dense_pairs()
    bonded = (dense[..., 0] & 7) > 0
    own = bonded[np.ix_(atoms, atoms)]
    carried = bonded[np.ix_(atoms, hydrogen)]
    if (bonded[hydrogen].sum(1) != 1).any() or (carried.sum(0) != 1).any():
        return None
    around = [np.flatnonzero(row) for row in own]
    if not all(len(around[parent]) for parent in np.flatnonzero(carried.any(1))):
        return None
    heavy = MolGraph(
        graph.atomic_numbers[atoms],
        graph.node_codes[atoms],
        dense[np.ix_(atoms, atoms)][np.triu_indices(len(atoms), 1)],
        *_centers(graph, atoms),
    )
    return Skeleton(heavy, atoms, np.flatnonzero(hydrogen), *_seats(heavy, around, carried))


def _seats(heavy: MolGraph, around: list[np.ndarray], carried: np.ndarray) -> tuple:
    """What `Skeleton` says of hydrogens, in the order of their indices."""
    parents = carried.argmax(0)
    widest = max(len(around[parent]) for parent in parents)
    count = len(parents)
    neighbors = np.repeat(parents[:, None], widest, 1)
    beyond = parents.copy()
    tilts, azimuths, turns = np.zeros(count), np.zeros(count), np.zeros(count)
    for parent in np.unique(parents):
        near, mine = around[parent], np.flatnonzero(parents == parent)
        kind = heavy.node_codes[parent, _HYBRIDIZATION]
        places = np.arange(len(mine))
        neighbors[mine, : len(near)] = near
        if len(near) == 1:
            further = around[near[0]][around[near[0]] != parent]
            beyond[mine] = further[0] if len(further) else parent
            if kind == _SP2:
                tilts[mine], azimuths[mine], turns[mine] = math.pi / 3, math.pi * places, _EITHER
            elif kind != _SP:
                narrow = heavy.atomic_numbers[parent] in _NARROW
                tilts[mine] = math.pi - (_RIGHT if narrow else _TETRAHEDRAL)
                azimuths[mine] = places * (_RIGHT if narrow else math.tau / 3)
                turns[mine] = _FREE
        elif len(near) == 2 and not (kind in (_SP, _SP2) and len(mine) == 1):
            tilts[mine], azimuths[mine], turns[mine] = _TETRAHEDRAL / 2, math.pi * places, _EITHER
    lengths = np.array([_LENGTHS.get(int(heavy.atomic_numbers[p]), 1.09) for p in parents])
    return parents, neighbors, beyond, lengths, tilts, azimuths, turns


def _centers(graph: MolGraph, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The table of specified centres of a skeleton of `atoms`."""
    place = torch.full((1, graph.n_atoms), -1)
    place[0, atoms] = torch.arange(len(atoms))
    centers = torch.from_numpy(graph.centers.astype(np.int64)).unsqueeze(0)
    parities = torch.from_numpy(graph.parities).unsqueeze(0)
    table, signs = (found[0].numpy() for found in strip_centers(centers, parities, place))
    kept = signs != 0
    return table[kept].astype(np.int16), signs[kept]


def strip_centers(
    centers: torch.Tensor, parities: torch.Tensor, place: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables of specified centres without hydrogens, for a batch.

    Args:
        centers: (B, S, 5) and parities: (B, S), as in `MolBatch`.
        place: (B, N) index of each atom in its skeleton, -1 for what is not there.

    Returns:
        The same for skeletons; the parity of what has fewer than three heavy neighbours is 0.
    """
    own = place.gather(1, centers.flatten(1)).view(centers.shape)
    middle, around = own[..., 0], own[..., 1:]
    gone = (around < 0) | (centers[..., 1:] == centers[..., :1])
    kept = (middle >= 0) & (gone.sum(-1) <= 1)
    # Seen from the plane of the other three, the centre is on the side of the missing one, which
    # stands last. To bring it there takes an exchange, and that turns the sign.
    moved = gone[..., :3].any(-1)
    first = torch.where(gone[..., :3], around[..., 3:], around[..., :3])
    last = torch.where(gone.any(-1), middle, around[..., 3]).unsqueeze(-1)
    table = torch.cat([middle.unsqueeze(-1), first, last], -1)
    return table * kept.unsqueeze(-1), torch.where(moved, -parities, parities) * kept


def _norm(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1, keepdims=True)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(_norm(vectors), 1e-9)


def _across(axes: np.ndarray) -> np.ndarray:
    """Vectors (K, 3) at right angles to `axes`."""
    return np.cross(axes, np.eye(3)[np.abs(axes).argmin(-1)])
