"""A job for a Ray cluster: a library to conformers, and a pipeline over what came of it.

    python examples/ray_job.py library.smi conformers -n 10 [--workers 2]     # on this machine
    ray job submit --working-dir . -- python examples/ray_job.py /shared/library /shared/conformers

LIBRARY is a file or a folder of files. FOLDER gets shards in Parquet; all nodes must see both.
Stopped or killed, the same call goes on. The second half reads the shards with Ray Data and writes
sizes of the conformers to FOLDER-sizes: the place for your own next step.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data
from rdkit.Chem import Descriptors3D

from rdgeodiff.chem.parquet import mol_from_bytes
from rdgeodiff.distributed import screen_on_ray


def sizes(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Radius of gyration and asphericity of each conformer of a row of the shards; Å."""
    if not row["delivered"]:
        return []
    mol = mol_from_bytes(row["ROMol"])
    return [
        {
            "name": row["name"],
            "conformer": conformer.GetId(),
            "gyration": Descriptors3D.RadiusOfGyration(mol, confId=conformer.GetId()),
            "asphericity": Descriptors3D.Asphericity(mol, confId=conformer.GetId()),
        }
        for conformer in mol.GetConformers()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Embed, then go on with what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-n", type=int, default=10, help="conformers a molecule (10)")
    parser.add_argument("--workers", type=int, default=0, help="0: one per GPU, or per core")
    parser.add_argument("--shard", type=int, default=256)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args(argv)
    # The cluster the job runs on, or a local one.
    ray.init(ignore_reinit_error=True)

    report = screen_on_ray(
        args.library,
        args.folder,
        args.n,
        workers=args.workers,
        shard=args.shard,
        randomSeed=args.seed,
    )
    print(report.totals.summary())
    if report.interrupted:
        return

    shards = sorted(str(path) for path in args.folder.glob("shard-*.parquet"))
    rows = ray.data.read_parquet(shards, columns=["name", "ROMol", "delivered"])
    measured = args.folder.with_name(f"{args.folder.name}-sizes")
    rows.flat_map(sizes).write_parquet(str(measured))
    print(f"{ray.data.read_parquet(str(measured)).count()} conformers in {measured}")


if __name__ == "__main__":
    main()
