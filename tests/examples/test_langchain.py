"""The adapter for LangChain's Deep Agents passes the tests that LangChain has for every sandbox, on the local engine."""

from pathlib import Path

from tests.support import langchain
from tests.support.service import Service


def test_the_adapter_passes_every_standard_test(service: Service, tmp_path: Path) -> None:
    langchain.passes(service.address, tmp_path)
