"""Fixtures that more than one file of tests uses."""

from __future__ import annotations

import pytest
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
