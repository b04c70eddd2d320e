"""Following a collection as the test's own parties do: the simulated node and the witness. None of the service's code."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

LISTED = "LISTED"
TLS_ENDS = 0.25


async def follow(session: aiohttp.ClientSession, path: str, selector: str = "") -> AsyncIterator[tuple[str, Any]]:
    """(LISTED, every object) first and whenever changes may have been missed, then (ADDED, MODIFIED or DELETED, object)."""
    while True:
        with contextlib.suppress(OSError, aiohttp.ClientError, ValueError, KeyError):
            async with session.get(f"{path}?{selector}") as answer:
                listed = await answer.json()
            version = listed["metadata"]["resourceVersion"]
            yield LISTED, listed["items"]
            async with session.get(f"{path}?{selector}&watch=true&resourceVersion={version}") as stream:
                buffer = b""
                async for chunk in stream.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for event in map(json.loads, lines):
                        if event["type"] == "ERROR":
                            raise OSError(event["object"])
                        yield event["type"], event["object"]
        await asyncio.sleep(0.2)


async def close(session: aiohttp.ClientSession) -> None:
    """As aiohttp advises: TLS connections end a moment after their session."""
    await session.close()
    await asyncio.sleep(TLS_ENDS)
