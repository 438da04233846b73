"""From checkpoints of the original GeoDiff release to safetensors.

Its files are pickles, which can run any code when they are opened. They are read here by an
unpickler that knows four names (dictionaries, the configuration's dictionary, storages, tensors)
and refuses a file that asks for anything else, before anything of it is run. No tensor, module or
class of the file's choosing is ever built: tensors come out as descriptions and are made from the
raw bytes afterwards, on the CPU, wherever they were saved from.

The converted files are loaded by `checkpoint.load_model` and drawn from like any other model. Their
network is a `rdgeodiff.nn.dual_encoder.DualEncoderEpsNetwork`, which scores edges.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rdgeodiff.architectures import ARCHITECTURES, EdgeScoreProcess
from rdgeodiff.data.restricted_pickle import PickleError, RestrictedUnpickler
from rdgeodiff.diffusion.original_geodiff import NoiseTables
from rdgeodiff.model_file import CheckpointError, save_model
from rdgeodiff.nn.dual_encoder import DualEncoderConfig, DualEncoderEpsNetwork
from rdgeodiff.sampling import Sampling

# The original registers its modules twice; both names lead to the same tensors.
_DUPLICATES = ("model_global.", "model_local.")
_TABLES = ("betas", "alphas")
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def convert_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read an original checkpoint safely.

    Returns:
        Its configuration ("model", "train", …) as plain dictionaries, and its tensors by name: the
        network's without their duplicates, and the float32 tables "betas" and "alphas" (T,), the
        latter being ᾱ.

    Raises:
        CheckpointError: not such a file, damaged, or asking for anything beyond tensors and
            dictionaries; the message names the file and what it asked for.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            content, blobs = _unpickle(archive)
            config = _plain(dict.get(content, "config"))
            weights = _mapping(dict.get(content, "model"), "model")
            tensors = {
                key: _tensor(key, value, blobs)
                for key, value in dict.items(weights)
                if not (isinstance(key, str) and key.startswith(_DUPLICATES))
            }
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error.__cause__
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: not a whole checkpoint of torch 1.6 or newer ({error})"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError(f"{path}: holds no model configuration")
    if not tensors.keys() >= set(_TABLES):
        raise CheckpointError(f"{path}: holds no noise tables ({', '.join(_TABLES)})")
    return config, tensors


def write_converted(path: str | os.PathLike[str], stem: str | os.PathLike[str]) -> Path:
    """Convert the checkpoint `path` into `stem`.safetensors and `stem`.json; returns the JSON.

    Raises:
        CheckpointError: the file cannot be read, or its tensors are not of the network it claims.
    """
    path, stem = Path(path), Path(stem)
    config, tensors = convert_checkpoint(path)
    try:
        network = DualEncoderEpsNetwork(DualEncoderConfig.from_original(config["model"]))
        weights = {k: v for k, v in tensors.items() if k not in _TABLES}
        network.load_state_dict(weights, strict=True)
        process = EdgeScoreProcess(NoiseTables(*(tensors[key] for key in _TABLES)))
        sigmas = process.noise_levels(Sampling(), "langevin", 0)
    except (ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: does not describe its tensors ({error})") from error
    if not all(a > b for a, b in itertools.pairwise(sigmas)):
        raise CheckpointError(f"{path}: its noise levels do not increase with the step")
    schedule = {k: v for k, v in config["model"].items() if k.startswith("beta_")}
    info = {
        "objective": "chain_rule",
        "schedule": {
            "steps": len(sigmas) - 1,
            "sigma_min": sigmas[-2],
            "sigma_max": sigmas[0],
            **schedule,
        },
        "sampling": dataclasses.asdict(
            dataclasses.replace(
                ARCHITECTURES[type(network).__name__].sampling, sigma_max=min(sigmas[0], 12.17)
            )
        ),
        "source": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "original_config": config,
    }
    return save_model(stem, network, info, process)


class _Storage(NamedTuple):
    """Raw numbers named by a pickle: where they lie in the archive, and how many of what."""

    key: str
    kind: str
    length: int


class _Unpickler(RestrictedUnpickler):
    """Builds dictionaries and descriptions only."""

    def __init__(self, program: bytes) -> None:
        # An EasyDict keeps its items as attributes too; an OrderedDict has room for both.
        names: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("easydict", "EasyDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *description: description,
        }
        super().__init__(program, names | {("torch", name): name for name in _STORAGES})

    def persistent_load(self, pid: Any) -> _Storage:
        # The fourth entry is the device it was saved from, which does not matter here.
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise CheckpointError("refers to something other than a storage")
        _, kind, key, _, count = pid
        if not (isinstance(kind, str) and kind in _STORAGES and isinstance(key, str)):
            raise CheckpointError("describes a storage of unknown kind")
        return _Storage(key, kind, int(count))


class _Blobs:
    """The raw storages of an archive."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive, self._folder = archive, folder

    def read(self, name: str) -> bytes:
        """Content of one member; CheckpointError where it is missing, damaged or compressed."""
        try:
            entry = self._archive.getinfo(self._folder + name)
            # torch never compresses, and so no small file can unpack into a huge one.
            if entry.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{name} is compressed")
            return self._archive.read(entry)
        except (KeyError, OSError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{name} is missing or damaged ({error})") from error


def _unpickle(archive: zipfile.ZipFile) -> tuple[dict[str, Any], _Blobs]:
    pickles = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError("not a checkpoint of torch (no data.pkl)")
    blobs = _Blobs(archive, pickles[0].removesuffix("data.pkl"))
    if "byteorder" in {n.rpartition("/")[2] for n in archive.namelist()}:
        if blobs.read("byteorder") != b"little":
            raise CheckpointError("its numbers are not little-endian")
    program = blobs.read("data.pkl")
    try:
        content = _Unpickler(program).load()
    except CheckpointError:
        raise
    except PickleError as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:  # damaged pickles fail in every way there is
        raise CheckpointError(f"damaged pickle ({type(error).__name__}: {error})") from error
    return _mapping(content, "the file"), blobs


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is not a dictionary")
    return value


def _plain(value: Any, depth: int = 0) -> Any:
    """Configuration values without the classes they came in; CheckpointError on any other."""
    if depth > 16:
        raise CheckpointError("the configuration is nested too deeply")
    if isinstance(value, dict):
        return {str(k): _plain(v, depth + 1) for k, v in dict.items(value)}
    if isinstance(value, list | tuple):
        return [_plain(v, depth + 1) for v in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise CheckpointError(f"the configuration holds a {type(value).__name__}")


def _tensor(key: Any, description: Any, blobs: _Blobs) -> torch.Tensor:
    """A tensor of its own memory, from (storage, offset, size, stride, …)."""
    try:
        storage, offset, size, stride = description[:4]
        if not (isinstance(key, str) and isinstance(storage, _Storage)):
            raise TypeError("not a tensor")
        kind = _STORAGES[storage.kind]
        flat = torch.frombuffer(bytearray(blobs.read(f"data/{storage.key}")), dtype=kind)
        if len(flat) != storage.length or math.prod(size) > len(flat):
            raise ValueError(f"{len(flat)} numbers where {storage.length} were promised")
        return flat.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)
    except CheckpointError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"tensor {key!r} cannot be read ({error})") from error
