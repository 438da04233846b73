"""The state of a training run on disk: safetensors and JSON, never pickle.

A state directory appears whole (written beside and renamed), and its files stay below 16 MB each,
so that a run can travel between machines in small pieces.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save_file

_PIECE = 15_000_000  # bytes
_SUMS = "sha256"  # key of meta.json: SHA-256 of each piece by its name


class StateError(ValueError):
    """A state that is damaged; the message names the file. Delete the folder to start anew."""


def save_state(folder: Path, tensors: Mapping[str, torch.Tensor], meta: dict) -> None:
    """Write `tensors` and `meta` as the state `folder`, replacing an older one."""
    partial, old = (
        folder.with_name(folder.name + ".partial"),
        folder.with_name(folder.name + ".old"),
    )
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    pieces: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if size and size + tensor.nbytes > _PIECE:
            pieces.append({})
            size = 0
        pieces[-1][name] = tensor
        size += tensor.nbytes
    sums = {}
    for k, piece in enumerate(pieces):
        file = partial / f"state-{k:03d}.safetensors"
        save_file(piece, file)
        sums[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (partial / "meta.json").write_text(json.dumps({**meta, _SUMS: sums}))
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """Read a state; None where there is none. A state lost between two renames is recovered.

    Raises:
        StateError: a file that is missing, truncated or altered; names it.
    """
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        os.replace(old, folder)
    description = folder / "meta.json"
    if not description.exists():
        return None
    try:
        meta = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"{description}: cannot be read as JSON ({error})") from error
    if not isinstance(meta, dict):
        raise StateError(f"{description}: not the description of a state")
    sums = meta.pop(_SUMS, None)  # states of earlier releases have none
    if sums is None:
        sums = dict.fromkeys(piece.name for piece in folder.glob("state-*.safetensors"))
    if not isinstance(sums, dict) or any("/" in name or os.sep in name for name in sums):
        raise StateError(f"{description}: not the description of a state")
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(sums):
        tensors.update(_load_piece(folder / name, sums[name]))
    return tensors, meta


def _load_piece(file: Path, checksum: str | None) -> dict[str, torch.Tensor]:
    try:
        blob = file.read_bytes()
        if checksum is not None and hashlib.sha256(blob).hexdigest() != checksum:
            raise StateError(f"{file}: truncated or altered since it was saved")
        return load(blob)
    except StateError:
        raise
    except Exception as error:  # safetensors has its own type, and KeyError for unknown numbers
        raise StateError(f"{file}: cannot be read ({error})") from error


def pack_optimizer(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Flatten an optimizer's moments to named tensors."""
    packed = {}
    for index, slots in optimizer.state_dict()["state"].items():
        for slot, value in slots.items():
            packed[f"{prefix}.{index}.{slot}"] = torch.as_tensor(value)
    return packed


def unpack_optimizer(
    prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Restore what `pack_optimizer` flattened."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix + "."):
            index, slot = name[len(prefix) + 1 :].split(".")
            state.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
