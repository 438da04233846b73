"""What a build has settled, as files others read: an archive, a training shard, the failures."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.data.conformer_sets import ReferenceMolecule, write_archive
from rdgeodiff.data.shards import Reference, write_shard
from rdgeodiff.datasets.journal import Entry, read_entries
from rdgeodiff.datasets.selection import boltzmann_weights

ARCHIVE, SHARD, FAILURES = "conformers.npz", "shard.npz", "failures.tsv"


@dataclass(frozen=True)
class Exported:
    """What was written: molecules, conformers, and rows without any."""

    molecules: int
    conformers: int
    failures: int


def export_dataset(
    folder: str | os.PathLike[str],
    archive: str | os.PathLike[str] | None = None,
    shard: str | os.PathLike[str] | None = None,
    *,
    least: int = 1,
) -> Exported:
    """Write what the build in `folder` has settled, also while it goes on.

    The files depend on the settled molecules alone, not on the order they were settled in.

    Args:
        folder: of a build.
        archive: SMILES, positions, energies and weights, for `read_archive`; FOLDER/conformers.npz
            by default.
        shard: the same, featurised for training; FOLDER/shard.npz by default.
        least: molecules with fewer conformers are left out.

    Raises:
        JournalError: no build.
    """
    folder = Path(folder)
    entries = sorted(read_entries(folder), key=lambda entry: entry.row)
    good = [entry for entry in entries if len(entry.energies) >= max(1, least)]
    bad = [entry for entry in entries if entry.cause]
    _write_failures(folder / FAILURES, bad)
    molecules = [_molecule(entry) for entry in good]
    if molecules:
        write_archive(archive or folder / ARCHIVE, molecules)
        write_shard(
            shard or folder / SHARD,
            (Reference(featurize(m.mol), m.positions, m.energies) for m in molecules),
        )
    return Exported(len(good), sum(len(m.positions) for m in molecules), len(bad))


def _molecule(entry: Entry) -> ReferenceMolecule:
    mol = Chem.AddHs(Chem.MolFromSmiles(entry.smiles))
    above = entry.energies - entry.energies.min()
    return ReferenceMolecule(
        entry.smiles, mol, np.asarray(entry.positions), above, boltzmann_weights(above)
    )


def _write_failures(path: Path, entries: Sequence[Entry]) -> None:
    temporary = path.with_suffix(".partial")
    with open(temporary, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, delimiter="\t", lineterminator="\n")
        table.writerow(["row", "name", "molecule", "cause", "why"])
        for entry in entries:
            why = entry.why or ", ".join(f"{cause} {n}" for cause, n in entry.losses.items())
            table.writerow([entry.row, entry.name, entry.smiles or entry.text, entry.cause, why])
    os.replace(temporary, path)
