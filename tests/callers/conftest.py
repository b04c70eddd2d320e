"""What the tests of callers share."""

from pathlib import Path

import pytest

from tests.support import ctl
from tests.support.service import Service


@pytest.fixture
def run(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ctl.Run:
    """Runs `sandboxctl` in this process, without a terminal, against the service of the module."""
    monkeypatch.setenv("SANDBOX_SERVER", service.address)
    monkeypatch.setenv("SANDBOX_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.delenv("COLUMNS", raising=False)
    return ctl.runner(capsys)
