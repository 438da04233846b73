"""An RDKit pipeline in which one call is swapped, and what that changes.

    python examples/drop_in.py [--conformers 10] [--molecules NAME ...]

The pipeline asks what many ask of conformers: how extended is the molecule, and how low in energy
does it get after a force-field relaxation? Everything but the embedding call stays as it was, the
parameter object included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from drugs import DRUGS
from rdkit import Chem, RDLogger
from rdkit.Chem import Descriptors3D, rdDistGeom, rdForceFieldHelpers

from rdgeodiff import EmbedMoleculeDiffusion

NAMES = ("L-DOPA", "(S)-ibuprofen", "penicillin G", "oseltamivir", "(Z)-tamoxifen")


@dataclass
class Outcome:
    """What the pipeline learns; Å, kcal/mol, s."""

    ids: list[int]
    stereo_kept: bool
    gyration: np.ndarray
    relaxation: np.ndarray
    lowest: float
    seconds: float


def pipeline(smiles: str, embed: Callable[..., Sequence[int]], conformers: int) -> Outcome:
    """SMILES in, descriptors of its conformers out."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    params = rdDistGeom.ETKDGv3()
    params.randomSeed = 7

    start = time.perf_counter()
    ids = list(embed(mol, conformers, params))  # the call that is swapped
    seconds = time.perf_counter() - start
    if not ids:
        return Outcome([], True, np.zeros(0), np.zeros(0), float("nan"), seconds)

    kept = all(same_stereo(smiles, mol, i) for i in ids)
    gyration = np.array([Descriptors3D.RadiusOfGyration(mol, confId=i) for i in ids])
    fresh = energies(mol)
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=2000, mmffVariant="MMFF94s")
    relaxed = energies(mol)
    return Outcome(ids, kept, gyration, fresh - relaxed, float(relaxed.min()), seconds)


def energies(mol: Chem.Mol) -> np.ndarray:
    """MMFF94s energies in kcal/mol, one a conformer."""
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
    fields = (
        rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, confId=c.GetId())
        for c in mol.GetConformers()
    )
    return np.array([field.CalcEnergy() for field in fields])


def same_stereo(smiles: str, mol: Chem.Mol, conf_id: int) -> bool:
    """Whether the stereo read from the geometry gives the SMILES that went in."""
    seen = Chem.Mol(mol, confId=conf_id)
    Chem.AssignStereochemistryFrom3D(seen, confId=conf_id, replaceExistingTags=True)
    return Chem.MolToSmiles(Chem.RemoveHs(seen)) == Chem.CanonSmiles(smiles)


def main() -> None:
    """Run both, side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conformers", type=int, default=10)
    parser.add_argument("--molecules", nargs="+", choices=sorted(DRUGS), default=NAMES)
    args = parser.parse_args()
    RDLogger.DisableLog("rdApp.warning")
    EmbedMoleculeDiffusion(Chem.AddHs(Chem.MolFromSmiles("CC")), 1)  # reads the model once
    print("- ids = rdDistGeom.EmbedMultipleConfs(mol, 10, params)")
    print("+ ids = rdgeodiff.EmbedMoleculeDiffusion(mol, 10, params)\n")
    print("Rg      radius of gyration in Å, mean ± standard deviation over the conformers")
    print("relax   median energy MMFF94s takes off a conformer, kcal/mol")
    print("lowest  energy of the best relaxed conformer above the better method's, kcal/mol\n")
    print(
        f"{'molecule':<16}{'method':<11}{'got':>6}{'stereo':>8}{'Rg':>14}"
        f"{'relax':>8}{'lowest':>8}{'s':>7}"
    )
    for name in args.molecules:
        outcomes = {
            "ETKDGv3": pipeline(DRUGS[name], rdDistGeom.EmbedMultipleConfs, args.conformers),
            "diffusion": pipeline(DRUGS[name], EmbedMoleculeDiffusion, args.conformers),
        }
        best = np.nanmin([o.lowest for o in outcomes.values()])
        for method, o in outcomes.items():
            head = f"{name:<16}{method:<11}{len(o.ids):>3}/{args.conformers}"
            if not o.ids:
                print(head)
                continue
            spread = f"{o.gyration.mean():.2f} ± {o.gyration.std():.2f}"
            print(
                f"{head}{'kept' if o.stereo_kept else 'LOST':>8}{spread:>14}"
                f"{np.median(o.relaxation):>8.1f}{o.lowest - best:>8.1f}{o.seconds:>7.2f}"
            )


if __name__ == "__main__":
    main()
