"""The rules of the house, read from the source: who may import whom, and what no file may do."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rdgeodiff"
FILES = sorted(PACKAGE.rglob("*.py"))
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))

# From bottom to top. Imports go to a lower floor, or stay within one package (or file).
FLOORS = (
    ("graph", "geometry"),
    ("results", "parameters"),
    ("nn", "diffusion", "chem", "precision", "samples", "side_by_side", "skeleton"),
    ("data",),
    ("sampling",),
    ("architectures",),
    ("model_file",),
    ("checkpoint",),
    ("training", "convert"),
    ("pipeline",),
    ("heavy_first",),
    ("opening",),
    ("task", "conformer_properties"),
    ("embed",),
    ("refine", "rows"),
    ("evaluation",),
    ("pictures",),
    ("frames", "screen", "embed_file"),
    ("distributed", "datasets"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {unit: height for height, units in enumerate(FLOORS) for unit in units}

# Where RDKit may be known; everything else runs without it.
RDKIT_UNITS = {
    "chem",
    "conformer_properties",
    "task",
    "embed",
    "refine",
    "rows",
    "evaluation",
    "pictures",
    "frames",
    "screen",
    "distributed",
    "datasets",
    "embed_file",
    "commands",
    "cli",
}
RDKIT_FILES = {"data/conformer_sets.py", "data/geom_ensembles.py"}
# The one file that unpickles, with an unpickler that refuses every name not in a short table.
UNPICKLING_FILES = {"data/restricted_pickle.py"}

MAX_LINES = 300

# Refuses RDKit as a machine without it does, whatever is installed here.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "rdkit":
            raise ImportError("rdkit is blocked")
sys.meta_path.insert(0, Blocker())
"""


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def unit_of(path: Path) -> str:
    """The floor plan's name of a file: its top-level package or module."""
    return relative(path).split("/")[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, those inside functions included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: relative import"
            if node.module == "rdgeodiff":
                yield from ((node.lineno, f"rdgeodiff.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def test_there_is_something_to_check():
    assert {"graph", "nn", "chem", "data", "training", "embed"} <= {unit_of(p) for p in FILES}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_run_downwards_only(path):
    unit = unit_of(path)
    if unit == "__init__":
        return  # the face of the package; what it names is imported lazily
    assert unit in FLOOR_OF, f"{relative(path)} has no floor: give it one in FLOORS"
    upwards = []
    for line, name in imported(path):
        parts = name.split(".")
        if parts[0] != "rdgeodiff" or len(parts) == 1 or parts[1] == unit:
            continue
        if FLOOR_OF.get(parts[1], len(FLOORS)) >= FLOOR_OF[unit]:
            upwards.append(f"{relative(path)}:{line} imports {name}")
    assert not upwards


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_rdkit_is_known_only_where_it_may_be(path):
    if unit_of(path) in RDKIT_UNITS or relative(path) in RDKIT_FILES:
        return
    lines = [line for line, name in imported(path) if name.split(".")[0] == "rdkit"]
    assert not lines, f"{relative(path)} imports rdkit in lines {lines}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_network_modules_live_in_nn(path):
    if unit_of(path) == "nn":
        return
    modules = [
        node.name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).split(".")[-1] == "Module" for base in node.bases)
    ]
    assert not modules


@pytest.mark.parametrize("path", FILES + EXAMPLES, ids=lambda p: p.name)
def test_nothing_is_unpickled(path):
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
    if path in {PACKAGE / name for name in UNPICKLING_FILES}:
        forbidden.remove("pickle")
    assert not [name for _, name in imported(path) if name.split(".")[0] in forbidden]
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        where = f"{path.name}:{node.lineno}"
        if called == "torch.load":
            assert keywords.get("weights_only") == "True", f"{where}: torch.load of any object"
        if called in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle", "False") == "False", f"{where}: pickled arrays"


@pytest.mark.parametrize("path", FILES + EXAMPLES, ids=lambda p: p.name)
def test_files_can_be_read_in_one_sitting(path):
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= MAX_LINES, f"{path.name} has {count} lines"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_the_library_does_not_print(path):
    if unit_of(path) in ("cli", "commands"):
        return
    calls = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Call)]
    lines = [n.lineno for n in calls if ast.unparse(n.func) == "print"]
    assert not lines, f"{relative(path)} prints in lines {lines}"


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )


def test_training_imports_without_rdkit():
    code = "import rdgeodiff, rdgeodiff.training.loop, rdgeodiff.checkpoint, rdgeodiff.cli\n"
    done = run_python(BLOCKER + code + "assert 'rdkit' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks():
    done = run_python(BLOCKER + "import rdgeodiff.chem.featurize")
    assert done.returncode != 0 and "rdkit is blocked" in done.stderr


def test_importing_everything_does_nothing():
    """No output, no seeding, no GPU start-up, no thread or log settings changed."""
    names = [
        ".".join(("rdgeodiff", *p.relative_to(PACKAGE).with_suffix("").parts))
        for p in FILES
        if p.name not in ("__init__.py", "__main__.py")
    ]
    # These need an extra that need not be installed.
    names = [n for n in names if n.split(".")[1] not in ("frames", "distributed")]
    code = f"""
import importlib, logging, random
import numpy, torch
before = (random.getstate(), numpy.random.get_state()[1].tolist(), torch.initial_seed(),
          torch.get_num_threads(), torch.get_default_dtype(), logging.root.handlers[:],
          logging.root.level)
for name in {names!r}:
    importlib.import_module(name)
after = (random.getstate(), numpy.random.get_state()[1].tolist(), torch.initial_seed(),
         torch.get_num_threads(), torch.get_default_dtype(), logging.root.handlers[:],
         logging.root.level)
assert before == after
assert not torch.cuda.is_initialized()
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""
