"""Training batches without their hydrogens, for models of heavy atoms."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rdgeodiff.geometry import center
from rdgeodiff.graph import MolBatch, is_hydrogen
from rdgeodiff.skeleton import FEWEST, strip_centers
from rdgeodiff.training.batches import PAD_STEP


@dataclass
class Stripped:
    """Skeletons of a batch of B molecules, padded to H heavy atoms.

    Attributes:
        graphs: what `rdgeodiff.skeleton.skeleton` makes of each molecule.
        atoms: (B, H) int64 indices of the heavy atoms.
    """

    graphs: MolBatch
    atoms: torch.Tensor

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Centred positions (B, H, 3) of the heavy atoms among those of all, (B, N, 3)."""
        own = x.gather(1, self.atoms.unsqueeze(-1).expand(-1, -1, 3))
        return center(own, self.graphs.mask)


def strip(graphs: MolBatch) -> Stripped:
    """The skeletons of a batch; molecules with fewer than `FEWEST` heavy atoms stay as they are."""
    heavy = graphs.mask & ~is_hydrogen(graphs.node_codes)
    heavy = torch.where(heavy.sum(1, keepdim=True) < FEWEST, graphs.mask, heavy)
    counts = heavy.sum(1)
    width = -(-int(counts.max()) // PAD_STEP) * PAD_STEP
    atoms = torch.argsort((~heavy).to(torch.int8), dim=1, stable=True)[:, :width]
    width = atoms.shape[1]
    mask = torch.arange(width, device=atoms.device) < counts.unsqueeze(1)
    nodes, pairs = graphs.node_codes, graphs.pair_codes
    nodes = nodes.gather(1, atoms.unsqueeze(-1).expand(-1, -1, nodes.shape[-1]))
    pairs = pairs.gather(1, atoms.view(*atoms.shape, 1, 1).expand(-1, -1, pairs.shape[2], 2))
    pairs = pairs.gather(2, atoms.view(len(atoms), 1, -1, 1).expand(-1, width, -1, 2))
    both = mask.unsqueeze(1) & mask.unsqueeze(2)
    place = torch.full(heavy.shape, -1, device=atoms.device)
    place.scatter_(1, atoms, torch.arange(width, device=atoms.device).expand_as(atoms))
    place = place.masked_fill(~heavy, -1)
    own = MolBatch(
        counts,
        mask,
        nodes * mask.unsqueeze(-1),
        pairs * both.unsqueeze(-1),
        *strip_centers(graphs.centers, graphs.parities, place),
    )
    return Stripped(own, atoms)
