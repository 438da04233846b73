"""Arrays of an .npz file that may be truncated, damaged or hostile."""

from __future__ import annotations

import os
import zipfile

import numpy as np

# No set of conformers compresses better than this; what claims to is made to fill the memory.
MAX_INFLATION = 200
ALWAYS_ALLOWED = 64_000_000  # bytes


class ArraysError(ValueError):
    """A file that holds no readable arrays; names it."""


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of an .npz file by name; objects are never unpickled.

    Raises:
        ArraysError: missing, truncated, damaged or foreign file, or one that would grow beyond
            reason when it is decompressed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # A member yields no more bytes than the directory promises, so promises can be trusted.
            promised = sum(member.file_size for member in archive.infolist())
        allowed = max(ALWAYS_ALLOWED, MAX_INFLATION * os.path.getsize(path))
        if promised > allowed:
            raise ArraysError(f"{promised} bytes when decompressed, {allowed} at most are read")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # damage shows in zipfile, zlib and numpy under a dozen types
        reason = str(error) or type(error).__name__
        raise ArraysError(f"{path}: cannot be read, truncated or damaged ({reason})") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ArraysError(f"{path}: {name} is not an array")
    return arrays
