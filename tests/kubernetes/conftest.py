"""One control plane and one simulated node for the whole session of a worker, a namespace of its own for each test."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import xdist.workermanage

from tests.kubernetes import truth as truths
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.containers import Containers
from tests.kubernetes.csi.growth import Growth
from tests.kubernetes.csi.sidecars import Sidecars
from tests.kubernetes.ground import RESYNC, KubernetesGround, started
from tests.kubernetes.node import Node
from tests.kubernetes.witness import Witness
from tests.support.rig import Rig
from tests.support.service import Service


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    # As Ctrl-C: what was started ends with the tests.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    made = Cluster()
    made.start()
    truths.MEASURED_ON[:] = [made.request("GET", "/version")["gitVersion"].removeprefix("v")]
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
async def containers(cluster: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[Containers | None]:
    """Real processes for the pods of a test that is marked so: the others pay nothing for them."""
    if request.node.get_closest_marker("processes") is None:
        yield None
        return
    async with Containers(cluster) as made:
        yield made


@pytest.fixture
async def node(cluster: Cluster, containers: Containers | None) -> AsyncIterator[Node]:
    async with Node(cluster, containers) as made:
        yield made


@pytest.fixture
async def ground(cluster: Cluster, node: Node, tmp_path: Path) -> KubernetesGround:
    return KubernetesGround(cluster, node, tmp_path)


@pytest.fixture
async def apart(tmp_path: Path) -> AsyncIterator[KubernetesGround]:
    """A namespace of a control plane that no other test shares."""
    cluster = Cluster()
    await asyncio.to_thread(cluster.start)
    try:
        async with Node(cluster) as node:
            yield KubernetesGround(cluster, node, tmp_path)
    finally:
        cluster.stop()


@pytest.fixture
async def rig(ground: KubernetesGround, tmp_path: Path) -> AsyncIterator[Rig]:
    async with started(Rig(ground, tmp_path)) as made:
        yield made


@pytest.fixture
async def truth(rig: Rig, ground: KubernetesGround) -> AsyncIterator[truths.Truth]:
    async with Witness(ground.cluster, ground.namespace) as witness:
        yield await truths.Truth(rig, ground, witness).sighted()
    ground.node.behave(ground.namespace, truths.POD, "run")


@pytest.fixture(scope="module")
def sidecars(cluster: Cluster) -> Iterator[Sidecars]:
    """CSI in the cluster, for the tests of one module: the others see a cluster without it."""
    with Sidecars(cluster) as made:
        yield made


@pytest.fixture
async def csi(sidecars: Sidecars, node: Node) -> AsyncIterator[Sidecars]:
    """CSI in the cluster and on its node, with a driver that behaves."""
    async with Growth(sidecars.cluster, sidecars.driver):
        yield sidecars
    sidecars.driver.heal()


@pytest.fixture
async def service(ground: KubernetesGround, make_service: Callable[..., Service]) -> Service:
    """The service as a process of its own, with the rights of its Role."""
    flags = [
        "--engine",
        "kubernetes",
        "--kubeconfig",
        str(ground.settings.kubeconfig),
        "--namespaces",
        ground.namespace,
    ]
    return await asyncio.to_thread(make_service(*flags, "--log-format", "json", "--resync", str(RESYNC)).start)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Sends what this worker found to the process that prints it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["truths"] = (truths.MEASURED_ON, truths.TABLE)


def pytest_testnodedown(node: xdist.workermanage.WorkerController) -> None:
    """Takes what a worker found, unless it has crashed."""
    measured_on, table = getattr(node, "workeroutput", {}).get("truths", ([], []))
    truths.MEASURED_ON[:] = measured_on or truths.MEASURED_ON
    truths.TABLE.extend(table)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what the tests found to be told of each cause."""
    if truths.TABLE:
        (version,) = truths.MEASURED_ON
        mark = "" if version.startswith(f"{truths.USUAL}.") else f", on {version}"
        terminalreporter.write_line(f"\nMeasured on Kubernetes {version}.\n")
        terminalreporter.write_line("| cause | phase | reason | told after |\n|---|---|---|---|")
        for cause, *told in truths.TABLE:
            terminalreporter.write_line(f"| {cause}{mark} | {' | '.join(told)} |")
