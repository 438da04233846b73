"""The sets of the virtual screen: queries with analogues, and decoys of their sizes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.MolStandardize import rdMolStandardize

from rdgeodiff.chem.readers import read_molecules
from rdgeodiff.data.arrays import read_arrays
from rdgeodiff.data.conformer_sets import read_archive

_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2)
UNLIKE = 0.3  # a decoy is less similar than this to its query


@dataclass
class Pose:
    """A molecule with hydrogens and one conformer."""

    smiles: str
    mol: Chem.Mol


@dataclass
class Query:
    """A pose to search with, and what it should and should not find (SMILES)."""

    pose: Pose
    actives: list[str]
    decoys: list[str]


def read_poses(path: Path, heaviest: int) -> list[Pose]:
    """The first conformer of each molecule of an archive, up to `heaviest` heavy atoms."""
    poses = []
    for reference in read_archive(path):
        # Where there are energies the first is not always the lowest.
        first = 0 if reference.energies is None else int(reference.energies.argmin())
        mol = Chem.Mol(reference.mol)
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(reference.positions[first].astype(float))
        mol.AddConformer(conformer)
        if mol.GetNumHeavyAtoms() <= heaviest:
            poses.append(Pose(reference.smiles, mol))
    return poses


def read_library(path: Path, heaviest: int, excluded: Sequence[Path]) -> list[str]:
    """SMILES of an archive or a file of molecules, those of `excluded` left out."""
    out = {flat(s) for one in excluded for s in _smiles_of(one)}
    kept = []
    for smiles in _smiles_of(path):
        mol = Chem.MolFromSmiles(smiles)
        if mol is not None and mol.GetNumHeavyAtoms() <= heaviest:
            if not (out and flat(smiles) in out):
                kept.append(smiles)
    return kept


def choose(
    poses: list[Pose],
    library: list[str],
    *,
    similar: float,
    queries: int,
    actives: int,
    pool: int,
    seed: int = 7,
) -> list[Query]:
    """Queries that have most analogues, their analogues, and decoys from one pool for all.

    An analogue has a Tanimoto coefficient (Morgan, radius 2) of at least `similar` and is not the
    query itself in another form. Decoys of a query are the molecules of the pool that are unlike it
    and within the range of heavy atoms of its actives. A random choice would differ from the
    actives in size, and size alone makes shapes differ.
    """
    prints = [fingerprint(s) for s in library]
    sizes = [Chem.MolFromSmiles(s).GetNumHeavyAtoms() for s in library]
    taken: set[int] = set()
    found: list[tuple[Pose, list[int], list[float]]] = []
    likeness = {k: _similarities(pose, prints) for k, pose in enumerate(poses)}
    analogues = {
        k: [i for i in range(len(library)) if similar <= likeness[k][i] < 1] for k in likeness
    }
    for k in sorted(analogues, key=lambda k: -len(analogues[k])):
        free = [i for i in analogues[k] if i not in taken and library[i] != poses[k].smiles]
        if len(found) == queries or len(free) < 3:
            continue
        best = sorted(free, key=lambda i: -likeness[k][i])[:actives]
        taken.update(analogues[k])
        found.append((poses[k], best, likeness[k]))
    wanted = [sizes[i] for _, best, _ in found for i in best]
    others = [i for i in range(len(library)) if i not in taken and sizes[i] in set(wanted)]
    # Of each size as many as among the actives, in proportion.
    draw, chosen = random.Random(seed), []
    for size in sorted(set(wanted)):
        of_size = [i for i in others if sizes[i] == size]
        count = round(pool * wanted.count(size) / len(wanted))
        chosen += draw.sample(of_size, min(count, len(of_size)))
    result = []
    for pose, best, like in found:
        low, high = min(sizes[i] for i in best), max(sizes[i] for i in best)
        decoys = [i for i in chosen if low <= sizes[i] <= high and like[i] < UNLIKE]
        result.append(Query(pose, [library[i] for i in best], [library[i] for i in decoys]))
    return result


def flat(smiles: str) -> str:
    """Canonical SMILES without stereo and charge: the molecule, whatever its form."""
    return Chem.MolToSmiles(_uncharged(smiles), isomericSmiles=False)


def fingerprint(smiles: str) -> DataStructs.ExplicitBitVect:
    """Morgan fingerprint of the uncharged molecule."""
    return _MORGAN.GetFingerprint(_uncharged(smiles))


def _similarities(pose: Pose, prints: list) -> list[float]:
    return DataStructs.BulkTanimotoSimilarity(fingerprint(pose.smiles), prints)


def _uncharged(smiles: str) -> Chem.Mol:
    return rdMolStandardize.Uncharger().uncharge(Chem.MolFromSmiles(smiles))


def _smiles_of(path: Path) -> Iterable[str]:
    if path.suffix == ".npz":
        return [str(s) for s in read_arrays(path)["smiles"]]
    return [r.text for r in read_molecules(path, add_hs=False) if r.mol is not None]
