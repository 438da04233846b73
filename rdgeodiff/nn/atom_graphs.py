"""Molecules as edge lists, the way the original GeoDiff sees them.

Nodes know their atomic number only, edges one integer: 0 for a pair that is merely close, RDKit's
number of the bond type for a bond, 23 and 24 for atoms two and three bonds apart. Several molecules
lie one after the other in the same arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rdgeodiff.graph import ELEMENTS, MAX_TOPOLOGICAL_DISTANCE, GraphError, MolBatch, MolGraph

BOND_TYPES = 22  # RDKit's bond types; k > 1 bonds apart is type BOND_TYPES + k − 1
# RDKit's number of each bond in the order of `BOND_CODES`.
_RDKIT_BONDS = (0, 1, 2, 3, 12, 17)


@dataclass(frozen=True)
class AtomGraphs:
    """M molecules with N atoms and L local edges (up to three bonds apart) in all.

    Attributes:
        atom_type: (N,) int64 atomic numbers.
        molecule: (N,) int64, not decreasing: which molecule an atom belongs to.
        local_index: (2, L) int64 sources and targets, sorted, both directions.
        local_type: (L,) int64.
    """

    atom_type: torch.Tensor
    molecule: torch.Tensor
    local_index: torch.Tensor
    local_type: torch.Tensor

    @staticmethod
    def from_bonds(
        atom_type: torch.Tensor,
        molecule: torch.Tensor,
        bonds: torch.Tensor,
        bond_type: torch.Tensor,
        order: int = 3,
    ) -> AtomGraphs:
        """Find the atoms two to `order` bonds apart.

        Args:
            atom_type: (N,) atomic numbers.
            molecule: (N,) molecule of each atom, not decreasing.
            bonds: (2, E) atom indices, every bond in both directions.
            bond_type: (E,) RDKit's bond types, 1 to 21.
            order: bonds between the ends of the longest local edge.

        Raises:
            GraphError: indices outside the molecules, unsorted molecules, a bond in one direction.
        """
        atom_type, molecule, bonds, bond_type = (
            t.long() for t in (atom_type, molecule, bonds, bond_type)
        )
        count = len(atom_type)
        _check(count, molecule, bonds, bond_type)
        keys, sort = (bonds[0] * count + bonds[1]).sort()
        source, target = bonds[:, sort]
        degree = torch.bincount(source, minlength=count)
        first = degree.cumsum(0) - degree
        known = torch.cat([torch.arange(count, device=keys.device) * (count + 1), keys])
        shells, types = [keys], [bond_type[sort]]
        for apart in range(2, order + 1):
            # Walk one bond further from the ends of the last shell.
            origin, end = shells[-1] // count, shells[-1] % count
            walk, bond = _ragged(first[end], degree[end])
            reached = torch.unique(origin[walk] * count + target[bond])
            reached = reached[~torch.isin(reached, known)]
            known = torch.cat([known, reached])
            shells.append(reached)
            types.append(torch.full_like(reached, BOND_TYPES + apart - 1))
        keys, sort = torch.cat(shells).sort()
        index = torch.stack([keys // count, keys % count])
        return AtomGraphs(atom_type, molecule, index, torch.cat(types)[sort])

    @staticmethod
    def from_batch(batch: MolBatch, order: int = 3) -> AtomGraphs:
        """The same molecules as featurised, without their padding.

        A bond that the features call "other" becomes RDKit's dative bond: no other one is left in a
        sanitised molecule of the elements they know.

        Args:
            batch: B molecules; atom k here is the k-th real one of `batch.mask`.
            order: bonds between the ends of the longest local edge.

        Raises:
            GraphError: the features do not tell distances of `order` bonds.
        """
        if not 1 <= order < MAX_TOPOLOGICAL_DISTANCE:
            raise GraphError(f"edges may span 1 to {MAX_TOPOLOGICAL_DISTANCE - 1} bonds")
        mask = batch.mask
        elements = torch.tensor(ELEMENTS, device=mask.device)
        slot = (mask.flatten().cumsum(0) - 1).view_as(mask)
        kind, apart = batch.pair_codes[..., 0] & 7, (batch.pair_codes[..., 1] & 15).long()
        molecule, i, j = ((apart > 0) & (apart <= order)).nonzero(as_tuple=True)
        numbers = torch.tensor(_RDKIT_BONDS, device=mask.device)
        bond = numbers[kind[molecule, i, j].long()]
        apart = apart[molecule, i, j]
        return AtomGraphs(
            elements[batch.node_codes[..., 0][mask].long()],
            mask.nonzero()[:, 0],
            torch.stack([slot[molecule, i], slot[molecule, j]]),
            torch.where(apart == 1, bond, BOND_TYPES - 1 + apart),
        )

    @staticmethod
    def from_graphs(graphs: Sequence[MolGraph], order: int = 3) -> AtomGraphs:
        """The same for molecules one by one."""
        return AtomGraphs.from_batch(MolBatch.collate(graphs), order)

    def to(self, device: torch.device | str) -> AtomGraphs:
        """The same molecules on another device."""
        fields = (self.atom_type, self.molecule, self.local_index, self.local_type)
        return AtomGraphs(*(t.to(device) for t in fields))


@dataclass(frozen=True)
class Edges:
    """Directed edges of one geometry, sorted by source, then target.

    Attributes:
        index: (2, E) int64 sources and targets.
        type: (E,) int64; above 0 on local edges.
        difference: (E, 3) x_source − x_target in Å.
        length: (E,) in Å.
    """

    index: torch.Tensor
    type: torch.Tensor
    difference: torch.Tensor
    length: torch.Tensor

    @staticmethod
    def of(graphs: AtomGraphs, x: torch.Tensor, cutoff: float, max_neighbors: int | None) -> Edges:
        """The local edges and all pairs closer than `cutoff` Å in positions `x` (N, 3)."""
        count = len(x)
        local = graphs.local_index[0] * count + graphs.local_index[1]
        source, target = radius_edges(x, graphs.molecule, cutoff, max_neighbors)
        keys = torch.unique(torch.cat([local, source * count + target]))
        kind = torch.zeros_like(keys)
        kind[torch.searchsorted(keys, local)] = graphs.local_type
        index = torch.stack([keys // count, keys % count])
        difference = x[index[0]] - x[index[1]]
        return Edges(index, kind, difference, difference.norm(dim=-1))

    @property
    def is_local(self) -> torch.Tensor:
        """(E,) bool."""
        return self.type > 0

    def select(self, keep: torch.Tensor) -> Edges:
        """The edges where `keep` (E,) is True."""
        return Edges(self.index[:, keep], self.type[keep], self.difference[keep], self.length[keep])

    def to_atoms(self, scalars: torch.Tensor, n_atoms: int) -> torch.Tensor:
        """Σ over edges of s (x_source − x_target)/d at the source, its opposite at the target.

        This is the chain rule from distances to coordinates (GeoDiff §4.4).

        Args:
            scalars: (E,) one number per edge.

        Returns:
            (N, 3).
        """
        push = (scalars / self.length).unsqueeze(-1) * self.difference
        total = push.new_zeros(n_atoms, 3)
        return total.index_add(0, self.index[0], push).index_add(0, self.index[1], -push)


def radius_edges(
    x: torch.Tensor, molecule: torch.Tensor, cutoff: float, max_neighbors: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sources, targets) of the pairs of one molecule closer than `cutoff`, sorted by target.

    Released torch-cluster kernels search for max_neighbors + 1 atoms in index order and take the
    atom itself out afterwards. With a cap the edges therefore depend on the order of atoms and need
    not go both ways, and an atom that comes late in its molecule keeps one neighbour more.

    Args:
        x: (N, 3) positions in Å.
        molecule: (N,), not decreasing.
        max_neighbors: the cap, 32 in the original; None for none.
    """
    size = torch.bincount(molecule)
    start = size.cumsum(0) - size
    target, source = _ragged(start[molecule], size[molecule])
    near = (x[source] - x[target]).square().sum(-1) < cutoff**2
    if max_neighbors is not None:
        found = near.cumsum(0)
        before = torch.cat([found.new_zeros(1), found])[size[molecule].cumsum(0) - size[molecule]]
        near = near & (found - before[target] <= max_neighbors + 1)
    near = near & (source != target)
    return source[near], target[near]


def _ragged(first: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(k, first[k] + 0 … first[k] + count[k] − 1) for every k, one after the other."""
    owner = torch.repeat_interleave(count)
    begin = count.cumsum(0) - count
    place = torch.arange(len(owner), device=owner.device)
    return owner, place - begin[owner] + first[owner]


def _check(
    count: int, molecule: torch.Tensor, bonds: torch.Tensor, bond_type: torch.Tensor
) -> None:
    if molecule.shape != (count,) or bool((molecule.diff() < 0).any()):
        raise GraphError(f"the molecules of {count} atoms must be one number each, in order")
    if bonds.shape != (2, len(bond_type)):
        raise GraphError(f"bonds {tuple(bonds.shape)} do not fit {len(bond_type)} bond types")
    if not len(bond_type):
        return
    if int(bonds.min()) < 0 or int(bonds.max()) >= count:
        raise GraphError(f"a bond names an atom outside the {count} there are")
    if int(bond_type.min()) < 1 or int(bond_type.max()) >= BOND_TYPES:
        raise GraphError(f"bond types run from 1 to {BOND_TYPES - 1}")
    if bool((molecule[bonds[0]] != molecule[bonds[1]]).any()):
        raise GraphError("a bond joins two molecules")
    forth, back = bonds[0] * count + bonds[1], bonds[1] * count + bonds[0]
    if len(torch.unique(forth)) != len(forth) or not torch.equal(forth.sort()[0], back.sort()[0]):
        raise GraphError("every bond must be there once in each direction")
