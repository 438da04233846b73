"""Which bonds a method turns otherwise than the reference ensembles do, beside ETKDGv3.

    python benchmarks/torsions.py ARCHIVE [--methods diffusion etkdg+mmff] [--worst 20]

For each rotatable bond the distribution of its torsion over the references and over twice as many
generated conformers; how far they are apart is the earth mover's distance on the circle, in
degrees: what share of the conformers has to turn, times how far. Coverage tells that conformers are
missing, this tells why. Torsions that differ by the exchange of equal neighbours are one; in a
molecule without stereo so are a torsion and its mirror image.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from rdkit import Chem
from tqdm.auto import tqdm

from rdgeodiff.chem.stereo import dihedrals
from rdgeodiff.datasets.fragments import rotatable_bonds
from rdgeodiff.evaluation.generators import METHODS, make_generators
from rdgeodiff.evaluation.references import read_references

BINS = 72  # of a full turn


@dataclass
class Torsion:
    """A torsion (four atoms) that is the same after `period` degrees."""

    kind: str
    atoms: tuple[int, int, int, int]
    period: float


@dataclass
class Row:
    """One bond: distances in degrees by method, and the most frequent torsion of each."""

    smiles: str
    kind: str
    usual: float
    distances: dict[str, float] = field(default_factory=dict)
    turned: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Draw, compare, print a table of means and one of the bonds that differ most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["diffusion", "etkdg", "etkdg+mmff"]
    )
    parser.add_argument("--every", type=int, default=1, help="take every k-th molecule")
    parser.add_argument("--model", default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worst", type=int, default=20, help="bonds shown, by the first method")
    args = parser.parse_args()
    generators = make_generators(
        args.methods, seed=args.seed, threads=args.threads, model=args.model
    )
    rows: list[Row] = []
    for reference in tqdm(list(read_references(args.archive))[:: args.every], unit="molecule"):
        chiral = bool(Chem.FindMolChiralCenters(reference.mol, useLegacyImplementation=False))
        made = {}
        for generator in generators:
            (drawn,) = generator([reference.mol], [2 * len(reference.positions)])
            if len(drawn.positions):
                made[generator.name] = drawn.positions
        for torsion in torsions(reference.mol):
            known = histogram(reference.positions, torsion, chiral)
            row = Row(reference.smiles, torsion.kind, usual(known, torsion))
            for name, positions in made.items():
                found = histogram(positions, torsion, chiral)
                row.distances[name] = distance(known, found, torsion.period)
                row.turned[name] = usual(found, torsion)
            rows.append(row)
    print(table(rows, args.methods, args.worst))


def torsions(mol: Chem.Mol) -> Iterator[Torsion]:
    """One torsion of each rotatable bond of a molecule with explicit hydrogens."""
    ranks = list(Chem.CanonicalRankAtoms(mol, breakTies=False))

    def outer(atom: int, other: int) -> tuple[int, int]:
        """A heavy neighbour, and after how many equal neighbours a turn comes back to it."""
        near = [a for a in mol.GetAtomWithIdx(atom).GetNeighbors() if a.GetIdx() != other]
        heavy = sorted((ranks[a.GetIdx()], a.GetIdx()) for a in near if a.GetAtomicNum() > 1)
        same = {ranks[a.GetIdx()] for a in near}
        return heavy[0][1], len(near) if len(same) == 1 else 1

    heavy = Chem.RemoveHs(mol)  # heavy atoms come first and keep their order
    linear = Chem.MolFromSmarts("[^1]")
    straight = {k for (k,) in heavy.GetSubstructMatches(linear)}
    for kind, begin, end in rotatable_bonds(heavy):
        if {begin, end} & straight:
            continue
        (first, turns), (last, others) = outer(begin, end), outer(end, begin)
        yield Torsion(kind, (first, begin, end, last), 360.0 / max(turns, others))


def histogram(positions: np.ndarray, torsion: Torsion, chiral: bool) -> np.ndarray:
    """Shares of (K, N, 3) conformers over the torsion's period, BINS to a full turn."""
    cosine, sine = dihedrals(positions, np.array([torsion.atoms]))
    angle = np.arctan2(sine[:, 0], cosine[:, 0])
    angle = np.degrees(angle if chiral else np.concatenate([angle, -angle])) % torsion.period
    bins = round(BINS * torsion.period / 360.0)
    return np.histogram(angle, bins, (0.0, torsion.period))[0] / len(angle)


def distance(known: np.ndarray, found: np.ndarray, period: float) -> float:
    """Earth mover's distance on a circle in degrees (Rabin et al. 2011)."""
    ahead = np.cumsum(known - found)
    return float(np.abs(ahead - np.median(ahead)).sum() * period / len(known))


def usual(shares: np.ndarray, torsion: Torsion) -> float:
    """The most frequent torsion in degrees, to the width of three bins."""
    near = shares + np.roll(shares, 1) + np.roll(shares, -1)
    return float((np.argmax(near) + 0.5) * torsion.period / len(shares))


def table(rows: list[Row], methods: list[str], worst: int) -> str:
    """Means over bonds, and the bonds the first method turns most otherwise."""
    lines = [f"{len(rows)} rotatable bonds", "", "| method | mean ° | median ° | above 30° |"]
    lines.append("|---" * 4 + "|")
    for method in methods:
        values = np.array([r.distances[method] for r in rows if method in r.distances])
        share = 100 * (values > 30).mean()
        lines.append(
            f"| {method} | {values.mean():.1f} | {np.median(values):.1f} | {share:.0f} % |"
        )
    first = methods[0]
    rows = sorted((r for r in rows if first in r.distances), key=lambda r: -r.distances[first])
    lines += ["", "| bond | molecule | references turn | " + " | ".join(methods) + " |"]
    lines.append("|---" * (3 + len(methods)) + "|")
    for row in rows[:worst]:
        cells = [
            f"{row.distances[m]:.0f} ({row.turned[m]:.0f})" if m in row.distances else "–"
            for m in methods
        ]
        lines.append(f"| `{row.kind}` | `{row.smiles}` | {row.usual:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
