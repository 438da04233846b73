"""Fixtures that more than one file of tests uses."""

from __future__ import annotations

import os
from pathlib import Path

import fake_xtb
import pytest
from helpers import Script, torch_threads

import rdgeodiff.opening


@pytest.fixture
def play(monkeypatch):
    """Replaces the network by a script: `play(answer)` returns the `Script`."""

    def start(answer):
        script = Script(answer)
        monkeypatch.setattr(rdgeodiff.opening, "open_source", lambda settings: script)
        return script

    return start


@pytest.fixture
def one_thread():
    """Sums in one order, whatever the machine: for numbers that are compared closely."""
    with torch_threads(1):
        yield


@pytest.fixture
def xtb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake program, in front of a real one; the file its calls are written to."""
    monkeypatch.setenv("PATH", str(fake_xtb.install(tmp_path / "bin")), prepend=os.pathsep)
    monkeypatch.setenv("XTB_LOG", str(tmp_path / "calls"))
    return tmp_path / "calls"


@pytest.fixture
def scripted_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of a screen is a script, as in the processes of `screen_child`."""
    import screen_child

    for name, stand_in in screen_child.fake().items():
        monkeypatch.setattr(rdgeodiff.opening, name, stand_in)
