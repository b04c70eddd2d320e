"""Asks GetStatus 50 times a second: `python -m benchmarks.status ADDRESS SANDBOX`.

Each line of its input is for how many seconds. A line of its output answers each: the p99 in milliseconds.
"""

import contextlib
import os
import sys
import time
from typing import Any

import grpc
from sandbox.v1 import sandbox_pb2, sandbox_pb2_grpc


def main(address: str, sandbox_id: str) -> None:
    # What is measured is the service, and not when this process gets its turn. Not everybody may ask for that.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    request = sandbox_pb2.GetStatusRequest(sandbox_id=sandbox_id)
    with grpc.insecure_channel(address) as channel:
        service: Any = sandbox_pb2_grpc.SandboxServiceStub(channel)
        for seconds in sys.stdin:
            times = []
            end = time.perf_counter() + float(seconds)
            while time.perf_counter() < end:
                began = time.perf_counter()
                service.GetStatus(request)
                times.append(time.perf_counter() - began)
                time.sleep(0.02)
            print(sorted(times)[int(len(times) * 0.99)] * 1e3, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
