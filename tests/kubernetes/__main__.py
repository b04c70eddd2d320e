"""`python -m tests.kubernetes [KUBECONFIG]`: a control plane and a simulated node, until Ctrl-C or SIGTERM."""

import asyncio
import contextlib
import functools
import os
import signal
import sys
from pathlib import Path

from sandbox_server.engines.local import launch

from tests.kubernetes.cluster import ADMIN, Cluster
from tests.kubernetes.containers import Containers
from tests.kubernetes.node import Node
from tests.kubernetes.processes import Processes


async def keep(kubeconfig: Path) -> None:
    ended = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, ended.set)
    cluster = Cluster()
    cluster.start()
    try:
        async with contextlib.AsyncExitStack() as running:
            containers = await running.enter_async_context(Containers(cluster)) if launch.program() else None
            await running.enter_async_context(Node(cluster, containers))
            if os.geteuid() == 0:
                await running.enter_async_context(Processes(cluster, functools.partial(print, flush=True)))
            kubeconfig.parent.mkdir(parents=True, exist_ok=True)
            cluster.kubeconfig(kubeconfig, ADMIN)
            print(f"export KUBECONFIG={kubeconfig.absolute()}")
            print(f"kubectl: {cluster.binary} kubectl get pods")
            print(f"service: make run ENGINE=kubernetes FLAGS='--kubeconfig {kubeconfig}'", flush=True)
            await ended.wait()
    finally:
        cluster.stop()


if __name__ == "__main__":
    try:
        asyncio.run(keep(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("KUBECONFIG", ".data/kubeconfig"))))
    except RuntimeError as error:
        sys.exit(f"cluster: {error}")
