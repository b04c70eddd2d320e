"""What the tests of callers share."""

import pytest

from tests.support import ctl
from tests.support.service import Service


@pytest.fixture
def run(service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> ctl.Run:
    """Runs `sandboxctl` in this process, without a terminal, against the service of the module."""
    monkeypatch.setenv("SANDBOX_SERVER", service.address)
    monkeypatch.delenv("COLUMNS", raising=False)
    return ctl.runner(capsys)
