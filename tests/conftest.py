"""Fixtures that more than one file of tests uses."""

from __future__ import annotations

import os
from pathlib import Path

import fake_xtb
import pytest
import torch
from helpers import Script

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
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def xtb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake program, in front of a real one; the file its calls are written to."""
    monkeypatch.setenv("PATH", str(fake_xtb.install(tmp_path / "bin")), prepend=os.pathsep)
    monkeypatch.setenv("XTB_LOG", str(tmp_path / "calls"))
    return tmp_path / "calls"
