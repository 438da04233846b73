"""Libraries of any size: shards that are finished or not there, and a call that goes on."""

from rdgeodiff.screen.failed import write_failed
from rdgeodiff.screen.run import ScreenStoppedError, screen_library

__all__ = ["ScreenStoppedError", "screen_library", "write_failed"]
