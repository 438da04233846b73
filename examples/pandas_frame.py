"""A PandasTools frame, its conformers, and files that keep all of them.

    python examples/pandas_frame.py [--conformers 5] [--out out]

The frame has what frames have: a cell that is empty and one that is no SMILES. Both rows stay, with
a sentence in the Error column. Writes OUT/frame.sdf and OUT/frame.parquet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from drugs import DRUGS
from rdkit import RDLogger
from rdkit.Chem import PandasTools

from rdgeodiff import (
    AddConformersToFrame,
    ExplodeConformers,
    FrameFromParquet,
    FrameToParquet,
    WriteFrameToSDF,
)

NAMES = ("aspirin", "paracetamol", "L-DOPA")


def main() -> None:
    """Frame → conformers → files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conformers", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    RDLogger.DisableLog("rdApp.warning")

    frame = pd.DataFrame({"Name": NAMES, "Smiles": [DRUGS[name] for name in NAMES]})
    frame.loc[len(frame)] = ["lost", None]
    frame.loc[len(frame)] = ["misspelt", "c1ccccc"]

    AddConformersToFrame(frame, smilesCol="Smiles", numConfs=args.conformers, randomSeed=7)
    frame["Conformers"] = [0 if m is None else m.GetNumConformers() for m in frame["ROMol"]]
    print(frame[["Name", "Conformers", "Error"]].to_string())

    each = ExplodeConformers(frame, keepEmpty=False)
    print(f"\n{len(each)} rows, one per conformer")

    written = frame[frame["Conformers"] > 0]
    sdf, parquet = args.out / "frame.sdf", args.out / "frame.parquet"
    count = WriteFrameToSDF(written, sdf, idName="Name", properties=["Smiles"])
    print(f"{count} records in {sdf}")
    print(f"{len(PandasTools.LoadSDF(str(sdf), removeHs=False))} rows when PandasTools reads them")
    FrameToParquet(frame, parquet)
    back = FrameFromParquet(parquet)
    print(f"{len(back)} rows in {parquet}, {int(back['Conformers'].sum())} conformers")


if __name__ == "__main__":
    main()
