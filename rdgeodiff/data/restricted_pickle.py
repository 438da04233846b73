"""Pickles of other projects, read without running anything in them.

Opening a pickle can run any code. Here every name in it is looked up in a short table, and a file
that asks for another one is refused before anything of it is run. What the table allows is not
built either: an array, a tensor or a molecule comes out as an `Inert` description, which
`array_of`, `mol_bytes` and `fields_of` turn into numbers and bytes afterwards.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

_CODE = re.compile(r"[biufSU]\d{1,6}|O8?")  # dtypes of plain numbers and text, and object arrays
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_GEOMETRIC = "torch_geometric.data.data", "torch_geometric.data.storage"

# Names of the GEOM release, of arrays and tensors in plain pickles, and of torch_geometric's graphs
# as its versions 1 and 2 write them.
_DATA_NAMES = {
    ("rdkit.Chem.rdchem", "Mol"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch.storage", "_load_from_bytes"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((module, name) for module in _MULTIARRAY for name in ("_reconstruct", "scalar")),
    *((module, "_frombuffer") for module in _NUMERIC),
    *((_GEOMETRIC[0], name) for name in ("Data", "DataEdgeAttr", "DataTensorAttr")),
    (_GEOMETRIC[1], "GlobalStorage"),
}


class PickleError(ValueError):
    """A pickle that is damaged, or does not hold what is expected of it."""


class PickleRefusedError(PickleError):
    """A pickle that asks for something it has no need of; nothing of it was run."""


class RestrictedUnpickler(pickle.Unpickler):
    """Knows the names it is given and no other.

    The objects that stand for the names must be made anew for each file, so that no file can leave
    anything behind in them.

    Args:
        program: the whole pickle.
        names: (module, name) → what stands for it.
    """

    def __init__(self, program: bytes, names: Mapping[tuple[str, str], Any]) -> None:
        # An absurd memo index would make the unpickler reserve that much memory.
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name.endswith("PUT") and argument is not None and argument > len(program):
                raise PickleError("damaged pickle (memo index beyond its end)")
        super().__init__(io.BytesIO(program))
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise PickleRefusedError(
                f"asks for {module}.{name}, which this kind of file has no need of; "
                "nothing of it was run"
            )
        return self._names[module, name]


class Inert:
    """What a pickle described and nobody built.

    Attributes:
        path: dotted name of the class or function.
        args: what it would have been called with.
        state: what its attributes would have been set from; None where the file gives none.
    """

    path = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Inert:
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


def load_restricted(program: bytes) -> Any:
    """Content of a pickle of dictionaries, lists, numbers, text and `Inert` descriptions.

    Raises:
        PickleRefusedError: it asks for anything else; names it.
        PickleError: damaged.
    """
    names: dict[tuple[str, str], Any] = {
        (module, name): type(name, (Inert,), {"path": f"{module}.{name}"})
        for module, name in _DATA_NAMES
    }
    names["collections", "OrderedDict"] = OrderedDict
    names["_codecs", "encode"] = _latin1  # how protocol 2 spells bytes
    try:
        return RestrictedUnpickler(program, names).load()
    except PickleError:
        raise
    except Exception as error:  # damaged pickles fail in every way there is
        raise PickleError(f"damaged pickle ({type(error).__name__}: {error})") from error


def array_of(item: Any) -> np.ndarray:
    """Array of a described NumPy array, NumPy scalar or torch tensor, or of plain numbers.

    Raises:
        PickleError: something else, or a description that contradicts itself.
    """
    try:
        if not isinstance(item, Inert):
            return _checked(np.asarray(item))
        kind = item.path.rpartition(".")[2]
        if kind == "_rebuild_tensor_v2":
            return _tensor(*item.args[:4])
        if kind == "_reconstruct":
            _, shape, dtype, fortran, raw = item.state
            return _numbers(raw, dtype, shape, "F" if fortran else "C")
        if kind == "_frombuffer":
            raw, dtype, shape, order = item.args
            return _numbers(raw, dtype, shape, order)
        if kind == "scalar":
            return _numbers(item.args[1], item.args[0], (), "C")
    except PickleError:
        raise
    except Exception as error:  # whatever a damaged description leads to
        raise PickleError(f"an array that cannot be read ({error})") from error
    raise PickleError(f"{item.path} where an array is expected")


def mol_bytes(item: Any) -> bytes:
    """RDKit's binary form of a described molecule; PickleError for anything else."""
    if isinstance(item, Inert) and item.path == "rdkit.Chem.rdchem.Mol":
        if len(item.args) == 1 and isinstance(item.args[0], bytes):
            return item.args[0]
    raise PickleError("not an RDKit molecule")


def fields_of(item: Any) -> dict[str, Any]:
    """Fields of a described torch_geometric graph, from version 1 or 2.

    Raises:
        PickleError: not a graph.
    """
    state = item.state if isinstance(item, Inert) and item.path.endswith(".Data") else None
    if isinstance(state, dict):
        store = state.get("_store", state)
        if isinstance(store, Inert) and isinstance(store.state, dict):
            store = store.state.get("_mapping")  # version 2 keeps its fields one storage down
        if isinstance(store, dict):
            return {k: v for k, v in store.items() if isinstance(k, str)}
    raise PickleError("not a graph of torch_geometric")


def load_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Array of an .npy file; one of objects is read as `load_restricted` reads.

    Raises:
        PickleError: not such a file, or one that asks for more than arrays.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = {(1, 0): np.lib.format.read_array_header_1_0}
            header = read.get(version, np.lib.format.read_array_header_2_0)(stream)
            rest = stream.read() if header[2].hasobject else b""
        if not rest:
            return np.load(path, allow_pickle=False)
        return array_of(load_restricted(rest))
    except PickleError as error:
        raise type(error)(f"{path}: {error}") from error
    except (ValueError, EOFError) as error:
        raise PickleError(f"{path}: not an array file ({error})") from error


def _latin1(text: str, codec: str) -> bytes:
    if codec != "latin1":
        raise PickleError(f"text in {codec}")
    return text.encode("latin1")


def _numbers(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    code = dtype.args[0]
    if not (isinstance(code, str) and _CODE.fullmatch(code)):
        raise PickleError(f"an array of {code!r}")
    if code.startswith("O"):
        objects = np.empty(len(raw), object)
        for k, element in enumerate(raw):
            objects[k] = array_of(element)
        return objects.reshape(shape, order=order)
    endian = dtype.state[1] if dtype.state else "<"
    kind = np.dtype(code).newbyteorder(">" if endian == ">" else "<")
    return np.frombuffer(raw, kind).reshape(shape, order=order).copy()


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: Any) -> np.ndarray:
    """A tensor's numbers; its storage is a small torch file of its own."""
    if not (isinstance(storage, Inert) and storage.path == "torch.storage._load_from_bytes"):
        raise PickleError("a tensor without a storage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # storages with a type are deprecated, and what there is
        held = torch.load(io.BytesIO(storage.args[0]), map_location="cpu", weights_only=True)
        flat = torch.tensor([], dtype=held.dtype).set_(held)
    if math.prod(size) > max(len(flat), 1):
        raise PickleError(f"a tensor of {math.prod(size)} numbers in a storage of {len(flat)}")
    return flat.as_strided(size, stride, offset).clone().numpy()


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise PickleError(f"{array.dtype} where numbers are expected")
    return array
