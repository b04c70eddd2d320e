"""Runs checks one after the other, each with a time limit. A check that fails does not end the examination."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from sandbox_server import engines
from sandbox_server.doctor.report import Result, Status
from sandbox_server.domain import errors

T = TypeVar("T")


class Failed(Exception):
    """A check failed; `remedy` says what to do about it."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class Check:
    """A check of one subject: it makes the results."""

    def __init__(self, name: str, subject: str) -> None:
        self.name = name
        self.subject = subject

    def ok(self, message: str) -> Result:
        """Returns that all is well."""
        return Result(self.name, Status.OK, self.subject, message)

    def warning(self, message: str, remedy: str) -> Result:
        """Returns what is not well and keeps nothing from working."""
        return Result(self.name, Status.WARNING, self.subject, message, remedy)

    def failure(self, message: str, remedy: str) -> Result:
        """Returns what keeps the service, or sandboxes, from working."""
        return Result(self.name, Status.FAILURE, self.subject, message, remedy)

    def not_checked(self, why: str, remedy: str = "") -> Result:
        """Returns why nothing is known."""
        return Result(self.name, Status.NOT_CHECKED, self.subject, why, remedy)


Act = Callable[[Check], Awaitable[Iterable[Result]]]


class Examination:
    """The results so far."""

    def __init__(self, within: float) -> None:
        """`within`: seconds that each check may take."""
        self._within = within
        self.results: list[Result] = []

    async def check(self, name: str, subject: str, act: Act, *, needs: str = "") -> bool:
        """Runs a check and returns whether nothing failed. `needs` says why it cannot run; empty if it can."""
        check = Check(name, subject)
        found = [check.not_checked(needs)] if needs else await self._found(check, act)
        self.results += found
        return all(one.status is not Status.FAILURE for one in found)

    async def _found(self, check: Check, act: Act) -> list[Result]:
        try:
            async with asyncio.timeout(self._within):
                return list(await act(check))
        except Failed as error:
            return [check.failure(str(error), error.remedy)]
        except TimeoutError:
            remedy = "see what keeps it from answering, such as a firewall or a server that hangs"
            return [check.failure(f"no answer within {self._within:g} s", remedy)]
        except (engines.Unreachable, engines.Refused, errors.ServiceError, ValueError, OSError) as error:
            return [check.failure(str(error), "correct that, and run `sandbox-server doctor` again")]
        except Exception as error:
            # Its text may contain anything, a secret too.
            message = f"the check itself failed: {type(error).__name__}"
            return [check.failure(message, "report it with the version, which `sandbox-server --version` prints")]


async def in_thread(work: Callable[[], T]) -> T:
    """Runs `work` on a thread that does not keep the process from ending when the time limit has passed."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(future)
