"""Workers of a Ray screen in which only the network is a script, and which can be made to die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import screen_child

import rdgeodiff.opening
from rdgeodiff.distributed.screen import ShardActor


class ScriptedActor(ShardActor):
    """Embeds with the network of `screen_child`."""

    def __init__(self, job: dict[str, Any]) -> None:
        for name, stand_in in screen_child.fake().items():
            setattr(rdgeodiff.opening, name, stand_in)
        super().__init__(job)
        self.folder: Path = job["folder"]


class DyingActor(ScriptedActor):
    """Is killed once, when it has made a shard."""

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        for account in super().__call__(batch):
            marker = self.folder.with_suffix(".died")
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield account


class PoisonedActor(ScriptedActor):
    """Dies whenever it comes to row 16 after having counted the try."""

    def _begin(self, index: int, first: int, stop: int) -> Path:
        tries = super()._begin(index, first, stop)
        if first <= 16 < stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return tries
