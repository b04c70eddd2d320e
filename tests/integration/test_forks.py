"""The service starts programs while gRPC carries the messages of callers."""

import os
import subprocess
import sys

import grpc
import pytest

from tests.support.waiting import PATIENCE

# Imported as the command does it: what it sets counts from then on.
SERVER = """
import asyncio, sys
import sandbox_server.__main__
import grpc, uvloop

async def counted(_messages, context):
    size = 0
    while isinstance(part := await context.read(), bytes):
        size += len(part)
        if size % (1 << 20) == 0:
            await (await asyncio.create_subprocess_exec("true")).wait()
    return b"%d" % size

async def main():
    server = grpc.aio.server()
    method = grpc.stream_unary_rpc_method_handler(counted)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"Count": method}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()

uvloop.run(main())
"""
PART = b"\1" * (256 * 1024)


@pytest.mark.slow
def test_messages_arrive_whole_while_programs_are_started() -> None:
    env = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    with subprocess.Popen([sys.executable, "-c", SERVER], env=env, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            address = f"127.0.0.1:{int(process.stdout.readline())}"
            with grpc.insecure_channel(address) as channel:
                count = channel.stream_unary("/test.Test/Count")
                for _ in range(100):
                    assert count(iter([PART] * 32), timeout=30 * PATIENCE, wait_for_ready=True) == b"%d" % (
                        32 * len(PART)
                    )
        finally:
            process.kill()
