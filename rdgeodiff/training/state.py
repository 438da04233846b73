"""The state of a training run on disk: safetensors and JSON, never pickle.

A state directory appears whole (written beside and renamed), and its files stay below 16 MB each,
so that a run can travel between machines in small pieces.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_PIECE = 15_000_000  # bytes


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
    for k, piece in enumerate(pieces):
        save_file(piece, partial / f"state-{k:03d}.safetensors")
    (partial / "meta.json").write_text(json.dumps(meta))
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """Read a state; None where there is none. A state lost between two renames is recovered."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        os.replace(old, folder)
    if not (folder / "meta.json").exists():
        return None
    tensors: dict[str, torch.Tensor] = {}
    for piece in sorted(folder.glob("state-*.safetensors")):
        tensors.update(load_file(piece))
    return tensors, json.loads((folder / "meta.json").read_text())


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
