"""The scripted API server takes and refuses writes that name a version as a real one does."""

from pathlib import Path

from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import client
from sandbox_server.settings import Kubernetes

from tests.support.preconditions import Preconditions
from tests.support.scripted_api import ScriptedApi


async def test_scripted_api_server_refuses_what_a_real_one_refuses(api: ScriptedApi, tmp_path: Path) -> None:
    made = client.Client(Kubernetes(kubeconfig=api.kubeconfig(tmp_path)), Pace())
    await made.open()
    try:
        await Preconditions(made, "default").check()
    finally:
        await made.close()
