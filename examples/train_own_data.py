"""From your own conformers to your own model, in about two minutes on a laptop.

    python examples/train_own_data.py [--sdf MY.sdf] [--minutes 1] [--out out/own]

The SDF holds one conformer a record, hydrogens included; records that follow each other and are the
same molecule in the same atom order make one ensemble. Without --sdf the example makes such a file
of thirty small molecules with ETKDGv3 and MMFF94s.

A minute shows that the road is open; it does not make a good model. For a real one leave out
`NETWORK` (the default is larger), compile, and train for hours or on a GPU:
`rdgeodiff train --config OUT/run/config.json --out OUT/run` continues the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from rdgeodiff import EmbedMoleculesDiffusion
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.cli import main as rdgeodiff
from rdgeodiff.data.shards import Reference, write_shard
from rdgeodiff.nn.graph_field import GraphFieldConfig
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.loop import Trainer

SMILES = """
    CCO CCCO CC(C)O CCN CCOC CC(=O)C CC(=O)O CC(=O)N CCC=O C1CCCC1 C1CCOC1 C1CCNC1 c1ccccc1
    Cc1ccccc1 Oc1ccccc1 Nc1ccccc1 c1ccncc1 c1ccoc1 c1cc[nH]c1 CC#N CCC#C C=CC=C CC=C C/C=C/C
    C/C=C\\C C[C@H](N)C(=O)O C[C@H](O)CC OCCO NCCO CSC
""".split()
UNSEEN = ("CCCN", "COCCO", "C[C@H](O)C=O", "Cc1ccco1")
NETWORK = GraphFieldConfig(width=32, node_width=64, layers=3, radial=16)


def main() -> None:
    """Data → shard → training → model → conformers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdf", type=Path, help="your conformers (default: made on the spot)")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("out/own"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    sdf = args.sdf or make_sdf(args.out / "conformers.sdf")
    shard = args.out / "shard.npz"
    count = write_shard(shard, (Reference(featurize(m), p) for m, p in ensembles(sdf)))
    print(f"{shard}: {count} molecules")

    config = TrainConfig(
        shards={str(shard): 1.0}, network=NETWORK, warmup=50, pair_budget=6000, ema=0.99
    )
    # Compiling pays only in runs longer than some minutes.
    trainer = Trainer(config, args.out / "run", compiled=False, bf16=False)
    trainer.run(max_seconds=60.0 * args.minutes)
    print(f"{trainer.step} steps, {trainer.samples} samples")

    model = args.out / "own"
    if status := rdgeodiff(["export", str(args.out / "run"), str(model)]):
        raise SystemExit(status)
    mols = [Chem.AddHs(Chem.MolFromSmiles(s)) for s in UNSEEN]
    results = EmbedMoleculesDiffusion(mols, 5, model=f"{model}.json", randomSeed=7)
    print("\nmolecules that it has not seen")
    for smiles, result in zip(UNSEEN, results, strict=True):
        rejected = ", ".join(f"{cause} {n}" for cause, n in result.rejections.items()) or "none"
        print(f"  {smiles:<14}{len(result.conf_ids)}/{result.requested}  rejected: {rejected}")


def make_sdf(path: Path) -> Path:
    """Stand-in for a user's own data: up to five relaxed conformers of each of `SMILES`."""
    with Chem.SDWriter(str(path)) as writer:
        for smiles in SMILES:
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            mol.SetProp("_Name", smiles)
            ids = rdDistGeom.EmbedMultipleConfs(mol, 5, randomSeed=7)
            rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol)
            for conf_id in ids:
                writer.write(mol, confId=conf_id)
    return path


def ensembles(path: Path) -> Iterator[tuple[Chem.Mol, np.ndarray]]:
    """Molecules of an SDF with their positions (C, N, 3) in Å."""
    records = (m for m in Chem.SDMolSupplier(str(path), removeHs=False) if m is not None)
    for _, group in groupby(records, key=same_molecule):
        mols = list(group)
        yield mols[0], np.array([m.GetConformer().GetPositions() for m in mols])


def same_molecule(mol: Chem.Mol) -> tuple:
    """Equal for records of one molecule in one atom order, stereo included."""
    bonds = tuple((b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds())
    return Chem.MolToSmiles(mol), tuple(a.GetAtomicNum() for a in mol.GetAtoms()), bonds


if __name__ == "__main__":
    main()
