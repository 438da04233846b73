"""The wheel a user installs: complete, typed, with weights and a command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("rdgeodiff", "weights", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, without network access."""
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        origin = ROOT / part
        if origin.is_dir():
            shutil.copytree(
                origin, source / part, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        else:
            shutil.copy(origin, source / part)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [*command, "-w", str(target), str(source)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module(names):
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / "rdgeodiff").rglob("*.py")}
    assert here <= names


def test_the_wheel_is_typed_and_licensed(names):
    assert "rdgeodiff/py.typed" in names
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_the_wheel_holds_the_weights(names):
    shipped = {f"rdgeodiff/weights/{p.name}" for p in (ROOT / "weights").iterdir()}
    assert any(n.endswith(".safetensors") for n in shipped), "weights/ holds no model"
    assert shipped <= names


def test_the_wheel_holds_nothing_else(names):
    tops = {n.split("/")[0] for n in names}
    assert all(top == "rdgeodiff" or top.endswith(".dist-info") for top in tops), tops


def test_the_default_model_loads_from_the_unpacked_wheel(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import rdgeodiff, pathlib\n"
        "from rdgeodiff.checkpoint import load_model\n"
        "from rdgeodiff.model_file import weights_folder\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "assert here in pathlib.Path(rdgeodiff.__file__).parents, rdgeodiff.__file__\n"
        "assert weights_folder() == here.resolve() / 'rdgeodiff' / 'weights'\n"
        "load_model()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_the_command_is_installed_by_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        assert "rdgeodiff = rdgeodiff.cli:main" in archive.read(entry).decode()


def test_constraints_satisfy_the_requirements():
    """Every dependency is pinned, at a version its requirement allows."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"]]
    for extra in ("cluster", "demo", "eval", "pandas", "test"):
        wanted += extras[extra]
    for text in wanted:
        requirement = Requirement(text)
        assert requirement.name in pins, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(pins[requirement.name]), text
