"""What the tests share: small molecules, networks and scripts, and tight comparisons."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.cli import main
from rdgeodiff.data.shards import Reference, write_shard
from rdgeodiff.graph import MolBatch, MolGraph
from rdgeodiff.nn.graph_field import GraphFieldConfig, GraphFieldNetwork
from rdgeodiff.results import EmbedResult, FailureCause


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


def pair_of(graph: MolGraph, i: int, j: int) -> tuple[int, int]:
    """Codes of the kind and the place of a pair of atoms."""
    kind, place = graph.dense_pairs()[i, j].tolist()
    return kind, place


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of torch, and then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable | None, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def taught(folder: Path, words: str) -> tuple[list[dict], Path]:
    """A short run of `rdgeodiff train`, log and exported model.

    Args:
        folder: empty; shard, run and model come to lie there.
        words: of the command line, besides data, output and what keeps it short.
    """
    shard, out, stem = folder / "a.npz", folder / "run", folder / "student"
    mols = [embedded(s, 2) for s in ("CCO", "CC=O", "C[C@H](O)F")]
    write_shard(shard, [Reference(featurize(m), positions_of(m)) for m in mols])
    data = f"--data {shard} --validation {shard} --out {out}"
    quick = "--steps 4 --batch 2000 --threads 1 --no-compile --no-bf16 --quiet"
    assert main(f"train {words} {data} {quick}".split()) == 0
    assert main(["export", str(out), str(stem)]) == 0
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return log, stem.with_suffix(".json")


def gaussian(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The exact denoiser of coordinates spread by 1 Å around 2 Å."""
    keep = 1.0 / (1.0 + sigma.view(-1, 1, 1) ** 2)
    return 2.0 + keep * (x - 2.0)


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


class Script:
    """A pipeline that answers each request with what `answer(request)` says."""

    def __init__(self, answer: Callable) -> None:
        self.answer = answer
        self.requests: list = []
        self.rounds: list[tuple[int, bool]] = []
        self.sigmas = [10.0, 0.1]
        self.started_at: list[float] = []

    def starting_at(self, sigma):
        self.started_at.append(sigma)
        return self

    def sample(self, requests, *, guided, deadline, on_result, **more):
        self.rounds.append((len(requests), guided))
        # Out of order, as a pipeline that packs by size reports them.
        for request in reversed(requests):
            self.requests.append(request)
            if deadline is not None and time.monotonic() > deadline:
                on_result(request, FailureCause.EXCEEDED_TIMEOUT)
            else:
                on_result(request, self.answer(request))


def accounted(result: EmbedResult) -> bool:
    """Nothing is missing without a cause."""
    return len(result.conf_ids) + sum(result.failures.values()) == result.requested


def specified_stereo(mol: Chem.Mol, conf_id: int) -> str:
    """Canonical SMILES with the stereo that positions show where `mol` specifies any.

    RDKit alone is asked, by way of its canonical ranking: no table or tag of the library takes
    part. Equal to `written_stereo(mol)` where the conformer is right.
    """
    seen = Chem.Mol(mol, confId=conf_id)
    for atom in seen.GetAtoms():
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for bond in seen.GetBonds():
        bond.SetStereo(Chem.BondStereo.STEREONONE)
    Chem.AssignStereochemistryFrom3D(seen, conf_id, replaceExistingTags=True)
    for atom in mol.GetAtoms():
        if atom.GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED:
            seen.GetAtomWithIdx(atom.GetIdx()).SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    return _isomeric_smiles(seen, mol)


def written_stereo(mol: Chem.Mol) -> str:
    """Canonical isomeric SMILES of the bare molecule, stereo without meaning cleaned away."""
    return _isomeric_smiles(mol, mol)


def _isomeric_smiles(mol: Chem.Mol, specified: Chem.Mol) -> str:
    copy = Chem.Mol(mol)
    for bond in specified.GetBonds():
        if bond.GetBondType() == Chem.BondType.DOUBLE and not bond.GetStereo():
            # "Any", as RDKit would else read the directions of the single bonds beside it.
            copy.GetBondWithIdx(bond.GetIdx()).SetStereo(Chem.BondStereo.STEREOANY)
    copy = Chem.RemoveAllHs(copy)
    Chem.AssignStereochemistry(copy, cleanIt=True, force=True)
    return Chem.MolToSmiles(copy)


def is_bonded_sensibly(mol: Chem.Mol, positions: np.ndarray) -> bool:
    """Bonds between 0.6 and 1.5 sums of covalent radii, no other pair closer than its bond."""
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(a.GetAtomicNum()) for a in mol.GetAtoms()])
    sums = radii[:, None] + radii
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    bonded = Chem.GetAdjacencyMatrix(mol).astype(bool)
    apart = ~bonded & ~np.eye(len(radii), dtype=bool)
    good = (distances > 0.6 * sums) & (distances < 1.5 * sums)
    return bool(good[bonded].all() and (distances[apart] > sums[apart]).all())
