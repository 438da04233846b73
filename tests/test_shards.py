"""Shards: what is written comes back, and a damaged file is refused, never misread."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from helpers import embedded, positions_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.data.shards import Reference, Shard, ShardError, read_shard, write_shard

SMILES = ("C[C@H](F)Cl", "O", "CC(=O)N", "C/C=C/[C@H](F)[C@@H](O)C")
COUNTS = (2, 1, 3, 1)


@pytest.fixture(scope="module")
def references() -> list[Reference]:
    mols = [embedded(s, n) for s, n in zip(SMILES, COUNTS, strict=True)]
    return [Reference(featurize(m), positions_of(m) + 3.0) for m in mols]


@pytest.fixture(scope="module")
def path(references, tmp_path_factory):
    target = tmp_path_factory.mktemp("shard") / "small.npz"
    assert write_shard(target, iter(references)) == len(SMILES)
    assert [p.name for p in target.parent.iterdir()] == ["small.npz"]  # nothing left half-written
    return target


def _content(shard: Shard) -> list[np.ndarray]:
    arrays = []
    for k in range(len(shard)):
        graph = shard.graph(k)
        arrays += [graph.atomic_numbers, graph.node_codes, graph.pair_codes, graph.centers]
        arrays += [graph.parities, shard.conformers(k)]
    return arrays


def test_round_trip(path, references):
    shard = read_shard(path)
    assert len(shard) == len(SMILES)
    assert shard.n_confs.tolist() == list(COUNTS)
    assert shard.n_atoms.tolist() == [r.graph.n_atoms for r in references]
    for k, reference in enumerate(references):
        graph = shard.graph(k)
        for name in ("atomic_numbers", "node_codes", "pair_codes", "centers", "parities"):
            assert np.array_equal(getattr(graph, name), getattr(reference.graph, name)), name
        centred = reference.positions - reference.positions.mean(1, keepdims=True)
        assert np.abs(shard.conformers(k) - centred).max() <= 0.0005 + 1e-6
        for which in range(COUNTS[k]):
            assert np.array_equal(shard.conformer(k, which), shard.conformers(k)[which])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :-1], "positions"),
        (lambda x: x[0], "positions"),
        (lambda x: x * np.nan, "not finite"),
        (lambda x: x * np.inf, "not finite"),
        (lambda x: x * 100.0, "32 Å"),
    ],
)
def test_bad_positions_are_refused_by_name(references, tmp_path, change, message):
    bad = Reference(references[0].graph, change(references[0].positions))
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(ShardError, match=f"molecule 1: .*{message}"),
    ):
        write_shard(tmp_path / "bad.npz", [references[1], bad])
    assert not (tmp_path / "bad.npz").exists()


def test_a_failed_write_keeps_the_old_shard(path, references, tmp_path):
    target = tmp_path / "kept.npz"
    target.write_bytes(path.read_bytes())
    bad = Reference(references[0].graph, references[0].positions * np.nan)
    with pytest.raises(ShardError):
        write_shard(target, [references[1], bad])
    with pytest.raises(ShardError, match="no molecules"):
        write_shard(target, [])
    assert target.read_bytes() == path.read_bytes()


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ShardError, match="nowhere"):
        read_shard(tmp_path / "nowhere.npz")
    for name, data in (("empty", b""), ("text", b"hello"), ("zip", b"PK\x05\x06" + b"\0" * 18)):
        file = tmp_path / f"{name}.npz"
        file.write_bytes(data)
        with pytest.raises(ShardError, match=name):
            read_shard(file)
    np.save(tmp_path / "array.npy", np.arange(5))
    with pytest.raises(ShardError, match="array"):
        read_shard(tmp_path / "array.npy")
    with pytest.raises(ShardError):
        read_shard(tmp_path)


def _rewritten(path, target, **changes: object):
    with np.load(path) as stored:
        arrays = dict(stored)
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays[name]) if callable(change) else change
    np.savez(target, **arrays)
    return target


@pytest.mark.parametrize(
    "changes",
    [
        {"coords": lambda a: a.astype(np.float32)},
        {"n_atoms": lambda a: a.astype(np.int64)},
        {"n_atoms": lambda a: a[:, None]},
        {"n_atoms": lambda a: -a},
        {"n_atoms": lambda a: a * 0},
        {"n_atoms": lambda a: a[::-1].copy(), "n_confs": lambda a: a},
        {"n_confs": lambda a: a[:-1]},
        {"n_confs": lambda a: -a},
        {"n_centers": lambda a: a + 1},
        {"atomic_numbers": lambda a: a[:-1]},
        {"node_codes": lambda a: a[:, :-1].copy()},
        {"pair_codes": lambda a: a[:, :1].copy()},
        {"centers": lambda a: a[:, :4].copy()},
        {"coords": lambda a: a[:, :2].copy()},
        {"coords": lambda a: a[:-1]},
        {"parities": None},
        {"format": None},
        {"format": np.int64(99)},
        {"format": np.array([1, 1])},
        {"format": np.array("one")},
    ],
)
def test_altered_arrays_are_refused(path, tmp_path, changes):
    with pytest.raises(ShardError, match=r"altered\.npz"):
        read_shard(_rewritten(path, tmp_path / "altered.npz", **changes))


def test_pickled_objects_are_refused_and_not_run(path, tmp_path):
    class Poison:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    poison = np.empty(4, object)
    poison[:] = [Poison() for _ in range(4)]
    with pytest.raises(ShardError, match="poison"):
        read_shard(_rewritten(path, tmp_path / "poison.npz", n_atoms=poison))
    with pytest.raises(ShardError, match="poison"):
        read_shard(_rewritten(path, tmp_path / "poison.npz", format=poison))
    assert not (tmp_path / "ran").exists()


def _read_or_refuse(data: bytes, target, expected: list[np.ndarray]) -> None:
    target.write_bytes(data)
    try:
        found = _content(read_shard(target))
    except ShardError:
        return
    assert len(found) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


ONE_FILE = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@ONE_FILE
@given(data=st.data())
def test_truncated_files(path, tmp_path, data):
    whole = path.read_bytes()
    length = data.draw(st.integers(0, len(whole) - 1))
    _read_or_refuse(whole[:length], tmp_path / "cut.npz", _content(read_shard(path)))


@settings(ONE_FILE, max_examples=400)
@given(data=st.data())
def test_flipped_bytes(path, tmp_path, data):
    changed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    _read_or_refuse(bytes(changed), tmp_path / "bent.npz", _content(read_shard(path)))


def test_every_byte_of_the_zip_directory(path, tmp_path):
    """The directory is a small part of the file, where chance seldom falls."""
    whole = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        start = archive.start_dir
    expected = _content(read_shard(path))
    for k in [*range(60), *range(start, len(whole))]:
        changed = bytearray(whole)
        changed[k] ^= 0xFF
        _read_or_refuse(bytes(changed), tmp_path / "bent.npz", expected)


def test_energies_come_back_above_the_lowest(references, tmp_path):
    known = [
        Reference(r.graph, r.positions, -7.0 + np.arange(len(r.positions), dtype=float)[::-1])
        for r in references
    ]
    write_shard(tmp_path / "known.npz", known)
    shard = read_shard(tmp_path / "known.npz")
    for k, count in enumerate(COUNTS):
        assert shard.energies(k).tolist() == list(range(count))[::-1]
    # Known of some only: a molecule without energies must not be read with its neighbour's.
    write_shard(tmp_path / "mixed.npz", [*known[:-1], references[-1]])
    mixed = read_shard(tmp_path / "mixed.npz")
    assert all(mixed.energies(k) is None for k in range(len(COUNTS)))


@pytest.mark.parametrize("energies", [np.zeros(3), np.zeros((2, 1)), np.array([0.0, np.nan])])
def test_energies_that_do_not_fit_are_refused(references, tmp_path, energies):
    bad = Reference(references[0].graph, references[0].positions, energies)
    with pytest.raises(ShardError, match="energies"):
        write_shard(tmp_path / "bad.npz", [bad])
        read_shard(tmp_path / "bad.npz")
