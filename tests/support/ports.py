"""Ports of this machine. Each process of a run of pytest has its own, so that no two give out the same port at once."""

import itertools
import os
import random
import socket

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_FIRST = 10000 + 600 * (_WORKER % 12)
# Below those that the kernel gives to connections. Not from the first on: another run may begin at the same time. Every
# second one: a service with the local engine serves its page at the port after its own.
_NEXT = itertools.cycle(random.sample(range(_FIRST, _FIRST + 600, 2), 300))

LOCAL_PORTS = "{}-{}".format(*(20000 + 400 * (_WORKER % 12) + part for part in (0, 399)))
"""The ports that a local engine of this process gives to its sandboxes."""


def free_port() -> int:
    for port in _NEXT:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError
