"""What an import takes: a cluster with objects of the former system, its database, and that of the service."""

import base64
from pathlib import Path
from typing import Any

from sandbox_server import importing, store
from sandbox_server.domain import legacy
from sandbox_server.importing.report import Report
from sandbox_server.settings import IMPORT

from tests.support.former_database import Former
from tests.support.opened import KEY
from tests.support.scripted import SETS
from tests.support.scripted_api import ScriptedApi

DEPLOYMENTS = SETS.replace("statefulsets", "deployments")


class Ground:
    """The cluster, the database of the service, and what an import takes."""

    def __init__(self, api: ScriptedApi, folder: Path, database_url: str) -> None:
        self.api = api
        self.database_url = database_url
        self.settings = {
            "engine": "kubernetes",
            "kubeconfig": api.kubeconfig(folder),
            "cluster_timeout": 5.0,
            "database_url": database_url,
            "encryption_keys": base64.b64encode(KEY).decode(),
        }

    def makes(self, *names: str, collection: str = SETS) -> None:
        """Puts workloads of the former system into the cluster. Nothing controls them."""
        self.api.controllers.discard("StatefulSet")
        for name in names:
            self.api.put(collection, {"metadata": {"name": name}, "spec": {"replicas": 1}})

    async def run(self, former: Former | str, **changes: Any) -> Report:
        url = former if isinstance(former, str) else former.url
        return await importing.run(IMPORT(**{"from": url, **self.settings, **changes}))

    def facts(self) -> dict[str, legacy.Fact]:
        """What is stored, by the id of the row."""
        return {fact.legacy_id: fact for fact in store.legacy.known(self.database_url).values()}

    def words(self, former: Former, *more: str) -> list[str]:
        """The flags of the command."""
        given = {"from": former.url, **self.settings}
        return ["import", *(f"--{name.replace('_', '-')}={value}" for name, value in given.items()), *more]
