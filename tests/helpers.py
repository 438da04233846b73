"""What the tests share: small molecules, small random networks, tight comparisons."""

from __future__ import annotations

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.graph import MolBatch, MolGraph
from rdgeodiff.nn.graph_field import GraphFieldConfig, GraphFieldNetwork


def mol_from(smiles: str) -> Chem.Mol:
    """Mol with explicit hydrogens."""
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def embedded(smiles: str | Chem.Mol, count: int = 1, seed: int = 7) -> Chem.Mol:
    """Mol with explicit hydrogens and `count` ETKDG conformers."""
    mol = mol_from(smiles) if isinstance(smiles, str) else smiles
    params = AllChem.ETKDGv3()
    params.randomSeed = seed
    ids = list(AllChem.EmbedMultipleConfs(mol, count, params))
    assert len(ids) == count, smiles
    return mol


def positions_of(mol: Chem.Mol) -> np.ndarray:
    """(C, N, 3) float64 positions of all conformers in Å."""
    return np.stack([c.GetPositions() for c in mol.GetConformers()])


def graph_of(smiles: str) -> MolGraph:
    """Graph with explicit hydrogens."""
    return featurize(mol_from(smiles))


def batch_of(*smiles: str) -> MolBatch:
    """Padded batch of molecules with explicit hydrogens."""
    return MolBatch.collate([graph_of(s) for s in smiles])


def noisy(batch: MolBatch, sigma: float = 1.5, seed: int = 0) -> torch.Tensor:
    """(B, N, 3) positions without chemical meaning; zeros as padding."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch.mask.shape, 3, generator=generator) * sigma
    return x * batch.mask.unsqueeze(-1)


def tiny_network(seed: int = 0, **sizes: float) -> GraphFieldNetwork:
    """A small network in evaluation mode in which every term acts.

    A fresh network starts with zeros in the places that would move atoms; comparing two runs of it
    would prove nothing, hence the random numbers added to every parameter that is all zero.
    """
    config = {"width": 16, "node_width": 24, "layers": 2, "radial": 12, **sizes}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = GraphFieldNetwork(GraphFieldConfig(**config))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1 * (parameter == 0))
    return network.eval().requires_grad_(False)


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference."""
    return float((a - b).abs().max())
