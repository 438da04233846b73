"""Ten conformers each of well-known drugs: an SDF, a table and a picture.

    python examples/demo.py [--conformers 10] [--seed 7] [--out out]

Writes OUT/demo.sdf (one record a conformer) and OUT/demo.png. The ETKDGv3 columns are there for
comparison only; every conformer in the two files comes from the diffusion model.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from drugs import DRUGS
from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom, rdMolAlign
from tqdm.auto import tqdm

from rdgeodiff import (
    DrawConformerGrid,
    EmbedMoleculeDiffusion,
    EmbedMoleculesDiffusion,
    EmbedResult,
)

PICTURED = (
    "(S)-ibuprofen",
    "morphine",
    "penicillin G",
    "oseltamivir",
    "(Z)-tamoxifen",
    "(E)-tamoxifen",
    "quinine",
    "zearalenone",
    "sildenafil",
    "imatinib",
)


@dataclass
class Row:
    """One molecule of the table; times in s per conformer, spreads in Å."""

    name: str
    mol: Chem.Mol
    result: EmbedResult
    seconds: float
    etkdg_seconds: float
    etkdg_spread: float


def main() -> None:
    """Embed, tell, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conformers", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("out"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    RDLogger.DisableLog("rdApp.warning")

    # The model is read at the first call; that time belongs to no molecule.
    EmbedMoleculeDiffusion(with_hydrogens("CC"), 1, randomSeed=args.seed)
    start = time.perf_counter()
    bar = tqdm(DRUGS.items(), desc="embedding", unit="mol")
    rows = [embed(name, smiles, args.conformers, args.seed) for name, smiles in bar]
    total = time.perf_counter() - start

    print_table(rows)
    delivered = sum(len(r.result.conf_ids) for r in rows)
    requested = sum(r.result.requested for r in rows)
    print(f"\n{delivered} of {requested} conformers in {total:.0f} s")
    print(f"{write_sdf(rows, args.out / 'demo.sdf')} records in {args.out / 'demo.sdf'}")
    pictured = [r.mol for r in rows if r.name in PICTURED and r.mol.GetNumConformers()]
    if pictured:
        DrawConformerGrid(pictured, args.out / "demo.png")
        print(f"picture in {args.out / 'demo.png'}")


def with_hydrogens(smiles: str) -> Chem.Mol:
    """A Mol with explicit hydrogens and no conformers."""
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def embed(name: str, smiles: str, conformers: int, seed: int) -> Row:
    """One molecule at a time, so that its time is its own.

    A library goes into one `EmbedMoleculesDiffusion` call instead, which shares batches.
    """
    mol = with_hydrogens(smiles)
    mol.SetProp("_Name", name)
    start = time.perf_counter()
    result = EmbedMoleculesDiffusion([mol], numConfs=conformers, randomSeed=seed)[0]
    seconds = (time.perf_counter() - start) / max(1, len(result.conf_ids))

    rival = with_hydrogens(smiles)
    params = rdDistGeom.ETKDGv3()
    params.randomSeed = seed
    start = time.perf_counter()
    count = len(rdDistGeom.EmbedMultipleConfs(rival, conformers, params))
    rival_seconds = (time.perf_counter() - start) / max(1, count)
    return Row(name, mol, result, seconds, rival_seconds, spread(rival))


def spread(mol: Chem.Mol) -> float:
    """Mean pairwise symmetric heavy-atom RMSD in Å of the largest fragment's conformers."""
    heavy = Chem.RemoveHs(max(Chem.GetMolFrags(mol, asMols=True), key=lambda m: m.GetNumAtoms()))
    if heavy.GetNumConformers() < 2:
        return float("nan")
    return float(np.mean(rdMolAlign.GetAllConformerBestRMS(heavy)))


def print_table(rows: list[Row]) -> None:
    """The summary, one line a molecule."""
    print("\nraw     first samples with all specified stereo right, before any is drawn again")
    print("spread  mean pairwise heavy-atom RMSD of the conformers in Å")
    print("time    s per conformer, one molecule at a time\n")
    print(f"{'':40}{'diffusion':>16}{'ETKDGv3':>16}")
    print(
        f"{'molecule':<18}{'atoms':>7}{'got':>7}{'raw':>8}{'spread':>8}{'time':>8}"
        f"{'spread':>8}{'time':>8}  not delivered"
    )
    for row in rows:
        result = row.result
        got = f"{len(result.conf_ids)}/{result.requested}"
        raw = f"{result.raw_stereo_ok}/{result.raw_samples}" if has_stereo(row.mol) else "-"
        own_time = f"{row.seconds:.3f}" if result.conf_ids else "-"
        causes = ", ".join(f"{cause} {n}" for cause, n in result.failures.items() if n)
        line = (
            f"{row.name:<18}{row.mol.GetNumAtoms():>7}{got:>7}{raw:>8}"
            f"{number(spread(row.mol)):>8}{own_time:>8}"
            f"{number(row.etkdg_spread):>8}{row.etkdg_seconds:>8.3f}  {causes}"
        )
        print(line.rstrip())


def has_stereo(mol: Chem.Mol) -> bool:
    """Whether a tetrahedral centre or double bond is specified."""
    specified = Chem.StereoSpecified.Specified
    return any(info.specified == specified for info in Chem.FindPotentialStereo(mol))


def number(value: float) -> str:
    """Two decimals, or a dash where there is nothing to tell."""
    return "-" if np.isnan(value) else f"{value:.2f}"


def write_sdf(rows: list[Row], path: Path) -> int:
    """One record a conformer; returns how many."""
    count = 0
    with Chem.SDWriter(str(path)) as writer:
        for row in rows:
            record = Chem.Mol(row.mol)
            record.SetProp("SMILES", DRUGS[row.name])
            for conf_id in row.result.conf_ids:
                record.SetProp("_Name", f"{row.name} {conf_id + 1}")
                record.SetIntProp("conformer", conf_id)
                writer.write(record, confId=conf_id)
                count += 1
    return count


if __name__ == "__main__":
    main()
