"""Copies of files on the disks of the local engine that take as long as a test wants."""

import os
import threading
import time

import pytest

PAUSE = 0.01


class SlowCopies:
    """Copies a byte at a time, with a pause after each, until `goes_on` is set. A copy can be cut off after each byte."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.goes_on = threading.Event()
        self._really = os.copy_file_range
        patch.setattr(os, "copy_file_range", self)

    def __call__(self, reading: int, writing: int, most: int, *at: int) -> int:
        if self.goes_on.is_set():
            return self._really(reading, writing, most, *at)
        time.sleep(PAUSE)
        return self._really(reading, writing, 1, *at)
