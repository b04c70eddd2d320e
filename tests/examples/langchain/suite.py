"""The standard tests of LangChain for sandboxes, on a sandbox of the service at SANDBOX_SERVER."""

import os
from collections.abc import Iterator

import pytest
from langchain_tests.integration_tests import SandboxIntegrationTests
from sandbox_client import Client
from sandbox_client.langchain import SandboxBackend

# The suite runs `python` as well as `python3`, which not every machine has.
PYTHON = "mkdir -p bin && ln -s $(command -v python3) bin/python"


class TestSandboxBackend(SandboxIntegrationTests):
    @pytest.fixture(scope="class")
    def sandbox(self) -> Iterator[SandboxBackend]:
        path = f"/home/agent/bin:{os.environ['SANDBOX_PATH']}"
        with Client(os.environ["SANDBOX_SERVER"]) as client:
            made = client.create("langchain", command=["sleep", "1000"], env={"PATH": path})
            client.wait_until(made, "RUNNING", fail_on_error=True, timeout=60)
            assert client.run(made, ["/bin/sh", "-c", PYTHON]).exit_code == 0
            yield SandboxBackend(client, made)
            client.delete(made)
