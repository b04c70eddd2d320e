"""What is known of a namespace itself. Its end explains why everything in it goes."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.engines.kubernetes import client, rights
from sandbox_server.engines.kubernetes.objects import OBJECT
from sandbox_server.engines.kubernetes.resources import Kind

HIDDEN = Fault(
    Reason.CLUSTER_FORBIDDEN,
    "the namespace may be gone: without the right to get it (deploy/namespaces.yaml) the service cannot know",
)

EMPTIED = Fault(
    Reason.NAMESPACE_TERMINATING, "everything in the namespace was removed, and the service's rights in it as well"
)


class Namespace:
    """Looks at a namespace when asked. `ends` says why nothing can be created in it: it is being removed, or it is gone."""

    def __init__(self, api: client.Client, name: str) -> None:
        self._api = api
        self._name = name
        self._examining = asyncio.Lock()
        self._examined_at = -math.inf
        self._hidden = False
        self.ends: Fault | None = None
        self.readable: bool | None = None
        """Whether the service may get it; None before the API server has said."""

    @property
    def gone(self) -> bool:
        """Whether it does not exist."""
        return self.ends is not None and self.ends.reason is Reason.NAMESPACE_MISSING

    @property
    def fault(self) -> Fault | None:
        """Why nothing can be created in the namespace, or that it may be gone because the service may not look."""
        if not self._hidden:
            return self.ends
        return self.with_hint(self.ends) if self.ends else HIDDEN

    def with_hint(self, fault: Fault) -> Fault:
        """Returns `fault`, with the hint that the namespace may be gone where the service cannot know and that explains it."""
        explained = fault.reason in (Reason.CLUSTER_FORBIDDEN, Reason.NAMESPACE_TERMINATING)
        return Fault(fault.reason, f"{fault.message}; {HIDDEN.message}") if self._hidden and explained else fault

    async def examine(self, emptied: Callable[[], bool]) -> None:
        """Looks at the namespace, once for all callers that wait meanwhile. A look that fails changes nothing.

        `emptied` says whether all objects were removed. Together with the loss of every permission that is the end of the
        namespace.
        """
        asked = time.monotonic()
        async with self._examining:
            if self._examined_at >= asked:
                return
            self._examined_at = time.monotonic()
            with contextlib.suppress(engines.Unreachable):
                try:
                    self.ends, self._hidden = await self.look(), False
                except engines.Refused:
                    # The removal of a namespace cannot be taken back. A namespace that was gone can exist again.
                    self.ends, self._hidden = None if self.gone else self.ends, True
                    self.ends = self.ends or (EMPTIED if emptied() else None)

    async def look(self) -> Fault | None:
        """Returns why nothing can be created in a namespace: it is being removed or does not exist. None if nothing is.

        Without the permission to get the namespace, a dry-run create shows it. Raises `engines.Refused` with CLUSTER_FORBIDDEN if
        the permission to create is missing as well.
        """
        message = f"the namespace {self._name} is being terminated: everything in it is removed"
        terminating = Fault(Reason.NAMESPACE_TERMINATING, message)
        try:
            async with self._api.call("GET", f"api/v1/namespaces/{self._name}", accept=client.METADATA) as response:
                self.readable = True
                return terminating if OBJECT.decode(await response.read()).metadata.deletionTimestamp else None
        except engines.Refused as refused:
            self.readable = refused.fault.reason is Reason.NAMESPACE_MISSING
            if self.readable:
                return refused.fault
        except rights.Withdrawn:
            pass
        trial = {"metadata": {"name": "trial"}}
        try:
            async with self._api.call(
                "POST", client.path(Kind.SECRET, self._name), parameters={"dryRun": "All"}, body=trial
            ):
                return None
        except engines.Refused as refused:
            match refused.fault.reason:
                case Reason.CLUSTER_FORBIDDEN:
                    raise
                case Reason.NAMESPACE_MISSING:
                    return refused.fault
                case Reason.NAMESPACE_TERMINATING:
                    return terminating
            return None
        except rights.Withdrawn as withdrawn:
            raise engines.Refused(Fault(Reason.CLUSTER_FORBIDDEN, str(withdrawn))) from None
