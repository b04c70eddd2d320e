"""A kubeconfig whose user acts for another one, as the API server takes it."""

import json
from pathlib import Path

import pytest
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import client
from sandbox_server.engines.kubernetes.resources import Kind
from sandbox_server.settings import Kubernetes

from tests.kubernetes.cluster import ADMIN, Cluster
from tests.kubernetes.ground import KubernetesGround


@pytest.mark.find(27)
async def test_an_administrator_that_acts_for_the_service_has_the_rights_of_the_service(
    cluster: Cluster, ground: KubernetesGround, tmp_path: Path
) -> None:
    path = cluster.kubeconfig(tmp_path / "acts", ADMIN)
    config = json.loads(path.read_text())
    config["users"][0]["user"] |= {"as": "sandbox-service", "as-groups": ["system:authenticated"]}
    path.write_text(json.dumps(config))
    made = client.Client(Kubernetes(kubeconfig=path), Pace())
    await made.open()
    try:
        async with made.call("GET", client.path(Kind.POD, ground.namespace)) as answer:
            assert answer.status == 200
        with pytest.raises(engines.Refused, match='User "sandbox-service" cannot list resource "pods"'):
            async with made.call("GET", client.path(Kind.POD, "kube-system")):
                pass
    finally:
        await made.close()
