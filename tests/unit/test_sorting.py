"""Lines that are sorted on disk."""

import random
import tempfile
from pathlib import Path

import pytest
from sandbox_server.engines.local import sorting


@pytest.mark.parametrize("count", [0, 1, 10, 11, 95])
def test_lines_of_several_parts_are_sorted_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(sorting, "PART", 10)
    monkeypatch.setattr(sorting, "_READ", 7)
    chance = random.Random(count)
    wanted = [b"%c" % chance.randrange(11, 256) * chance.randrange(9) for _ in range(count)] + [
        b"a",
        b"a\x01",
        b"a\x0b",
    ]
    checks: list[None] = []
    with tempfile.TemporaryFile(dir=tmp_path, buffering=0) as file:
        lines = sorting.Lines(file)
        for line in wanted:
            lines.add([line])
            assert len(lines._last) < 10
        assert list(lines.merged(lambda: checks.append(None))) == sorted(wanted)
    assert checks
