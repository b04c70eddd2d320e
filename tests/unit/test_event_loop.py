"""What the event loop reports itself, since nobody waits for it."""

import asyncio

import pytest
import structlog
from sandbox_server import app

CLOSED = RuntimeError(
    "unable to perform operation on <TCPTransport closed=True reading=False 0x7f>; the handler is closed"
)


@pytest.mark.parametrize("error", [CLOSED, ConnectionResetError("reset"), OSError(9, "Bad file descriptor")])
async def test_lost_connection_is_one_line(error: Exception) -> None:
    context = {"message": "Fatal error on SSL protocol", "exception": error, "transport": object()}
    with structlog.testing.capture_logs() as logged:
        app.report(asyncio.get_running_loop(), context)
    assert logged == [
        {"event": "connection_lost", "message": f"Fatal error on SSL protocol: {error}", "log_level": "info"}
    ]


@pytest.mark.parametrize(
    "context",
    [
        {"message": "Task exception was never retrieved", "exception": RuntimeError("the handler is closed")},
        {"message": "Fatal error on transport", "exception": ValueError("words"), "transport": object()},
        {"message": "Unclosed connection"},
    ],
)
async def test_anything_else_is_an_error_with_its_traceback(context: dict[str, object]) -> None:
    with structlog.testing.capture_logs() as logged:
        app.report(asyncio.get_running_loop(), context)
    (line,) = logged
    assert (line["event"], line["log_level"], line["exc_info"]) == (
        "event_loop_failed",
        "error",
        context.get("exception"),
    )
