"""A small file of each kind that is read back, and how its seal is renewed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from helpers import embedded, positions_of, tiny_network

from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.data.conformer_sets import ArchiveError, read_archive
from rdgeodiff.data.shards import Reference, ShardError, read_shard, write_shard
from rdgeodiff.model_file import CheckpointError, save_model
from rdgeodiff.training.state import StateError, load_state, save_state

SMILES = ("C[C@H](F)Cl", "CO")


class Reader:
    """A kind of file: how to write it, how to read all of it, and what a refusal is called."""

    def __init__(
        self, path: Path, error: type[Exception], read: Callable[[], list[np.ndarray]]
    ) -> None:
        self.path, self.error, self.read = path, error, read
        self.whole = path.read_bytes()
        self.expected = read()

    def check(self, data: bytes) -> bool:
        """True if refused; the file is whole again afterwards."""
        self.path.write_bytes(data)
        try:
            found = self.read()
        except self.error as error:
            # A description that names its pieces wrongly is noticed at the pieces.
            names = {self.path.name, self.path.stem, self.path.parent.name}
            assert any(name in str(error) for name in names)
            return True
        finally:
            self.path.write_bytes(self.whole)
        assert len(found) == len(self.expected)
        assert all(np.array_equal(a, b) for a, b in zip(found, self.expected, strict=True))
        return False


def shard_file(folder: Path) -> Reader:
    mols = [embedded(s, 2) for s in SMILES]
    path = folder / "shard.npz"
    write_shard(path, [Reference(featurize(m), positions_of(m)) for m in mols])

    def read() -> list[np.ndarray]:
        shard = read_shard(path)
        found = [shard.conformers(k) for k in range(len(shard))]
        for k in range(len(shard)):
            found += [shard.graph(k).node_codes, shard.graph(k).pair_codes, shard.graph(k).centers]
        return found

    return Reader(path, ShardError, read)


def archive_file(folder: Path) -> Reader:
    mols = [embedded(s, 2) for s in SMILES]
    path = folder / "archive.npz"
    np.savez_compressed(
        path,
        smiles=np.array(SMILES),
        n_atoms=np.array([m.GetNumAtoms() for m in mols]),
        n_confs=np.array([2, 2]),
        coords=np.concatenate([positions_of(m).reshape(-1, 3) * 1000 for m in mols]).astype("i2"),
    )
    return Reader(path, ArchiveError, lambda: [m.positions for m in read_archive(path)])


def model_file(folder: Path) -> Path:
    return save_model(folder / "fuzzed", tiny_network(), {})


def tensors_of(description: Path) -> list[np.ndarray]:
    return [v.numpy() for v in load_model(description).network.state_dict().values()]


def weights_file(folder: Path) -> Reader:
    description = model_file(folder)
    weights = description.with_suffix(".safetensors")
    return Reader(weights, CheckpointError, lambda: tensors_of(description))


def description_file(folder: Path) -> Reader:
    description = model_file(folder)
    return Reader(description, CheckpointError, lambda: tensors_of(description))


def state_piece(folder: Path, name: str = "state-000.safetensors") -> Reader:
    state = folder / "state"
    save_state(state, {"x": torch.arange(40.0), "y": torch.ones(2, 3)}, {"step": 5})

    def read() -> list[np.ndarray]:
        stored = load_state(state)
        assert stored is not None
        return [stored[0][k].numpy() for k in sorted(stored[0])]

    return Reader(state / name, StateError, read)


def state_meta(folder: Path) -> Reader:
    return state_piece(folder, "meta.json")


def reseal(description: Path, **changes: object) -> None:
    weights = description.with_suffix(".safetensors").read_bytes()
    info = json.loads(description.read_text())
    info |= {"sha256": hashlib.sha256(weights).hexdigest(), **changes}
    description.write_text(json.dumps(info))
