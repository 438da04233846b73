"""How a screen begins, whatever engine does the work: the call, the folder's lock, the header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock

from rdgeodiff.chem.parquet import pyarrow
from rdgeodiff.parameters import DiffusionEmbedParameters
from rdgeodiff.rows import RowEmbedder
from rdgeodiff.screen.manifest import Manifest, ManifestError
from rdgeodiff.screen.shards import FORMATS

_HASHED_BYTES = 1 << 30  # a larger file is known by its size and samples of its content
# Parameters that do not change what comes out.
_FREE = ("numThreads", "progress", "timeout", "trackFailures", "device", "model")


def check_call(kind: str, rows: tuple[int, int | None], shard: int) -> None:
    """Raises:
    ValueError: such shards or such a slice cannot be.
    ReaderError: pyarrow is needed and missing.
    """
    if kind not in FORMATS:
        raise ValueError(f"unknown kind {kind!r} of shards; known: {', '.join(FORMATS)}")
    if kind == "parquet":
        pyarrow()
    first, stop = rows
    if shard < 1 or first < 0 or (stop is not None and stop < first):
        raise ValueError(f"no such slice: rows {first} to {stop}, shard {shard}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there, for this process alone.

    Raises:
        ManifestError: another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ManifestError(f"{folder}: another process is at work here") from None
    try:
        yield
    finally:
        lock.release()


def with_seed_of(
    manifest: Manifest, settings: DiffusionEmbedParameters
) -> DiffusionEmbedParameters:
    """The settings; a seed that is left open is the one the folder was begun with."""
    if settings.randomSeed < 0 and manifest.header:
        return settings.updated(randomSeed=manifest.header["settings"]["randomSeed"])
    return settings


def header_of(
    embedder: RowEmbedder,
    identity: dict[str, Any],
    *,
    rows: tuple[int, int | None],
    shard: int,
    kind: str,
    add_hs: bool,
    device: str | None = None,
) -> dict[str, Any]:
    """What decides the content of the shards; see `screen_library` for the arguments.

    `device` is where the network runs if that is not where `embedder` is.
    """
    return {
        **_versions(),
        "input": identity,
        "rows": list(rows),
        "count": embedder.count,
        "shard": shard,
        "kind": kind,
        "add_hs": add_hs,
        "model": {"name": embedder.settings.model, "sha256": embedder.model_sha256},
        "device": device or embedder.device,
        "settings": _lasting(embedder.settings),
    }


def _lasting(settings: DiffusionEmbedParameters) -> dict[str, Any]:
    return {k: v for k, v in json.loads(settings.toJSON()).items() if k not in _FREE}


def _versions() -> dict[str, str]:
    names = ("rdgeodiff", "rdkit", "torch")
    return {f"{name}_version": _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def identity_of(source: Path) -> dict[str, Any]:
    """Name, size and sha256 of the input; of a huge one, of 256 pieces of it."""
    size = source.stat().st_size
    with open(source, "rb") as stream:
        if size <= _HASHED_BYTES:
            digest = hashlib.file_digest(stream, "sha256")
        else:
            digest = hashlib.sha256()
            for k in range(256):
                stream.seek(k * (size - (1 << 16)) // 255)
                digest.update(stream.read(1 << 16))
    return {"name": source.name, "bytes": size, "sha256": digest.hexdigest()}
