"""The Kubernetes engine: observes, applies and deletes, in each of the namespaces that it follows."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from sandbox_server import engines
from sandbox_server.domain.observed import Fault, Observed
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Addresses, Key, Sandbox
from sandbox_server.engines.kubernetes import (
    client,
    contest,
    disk,
    manifests,
    observe,
    patch,
    preflight,
    removal,
    writer,
)
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.settings import Settings


class KubernetesEngine:
    """See `engines.Engine`."""

    def __init__(self, settings: Settings, namespaces: Iterable[str] = ()) -> None:
        """`namespaces`: those that are observed from the beginning. Raises ValueError for settings that make no pod."""
        preflight.check(settings)
        self._settings = settings
        self._namespaces = namespaces
        self._api = client.Client(settings)
        self._views: dict[str, View] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._contests = contest.Contests(lambda _: None)

    async def open(self, live: Iterable[Sandbox], changed: Callable[[Key], None]) -> None:
        """Begins to list and watch. Raises ValueError if there is no usable kubeconfig."""
        await self._api.open()
        self._changed = changed
        self._contests = contest.Contests(changed)
        self.follow(self._namespaces)

    def follow(self, namespaces: Iterable[str]) -> None:
        """Lists and watches those that are not watched yet."""
        for namespace in namespaces:
            if namespace not in self._views:
                view = self._views[namespace] = View(self._api, namespace, self._changed, self._settings.resync)
                self._tasks += [asyncio.create_task(informer.run()) for informer in view.informers]

    async def close(self) -> None:
        """Stops observing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._contests.close()
        await self._api.close()

    @property
    def in_sight(self) -> bool:
        """Whether it sees a namespace."""
        return any(map(self.sees, self._views))

    def sees(self, namespace: str) -> bool:
        """Whether every informer of the namespace has listed and is in contact, or the namespace is known to have ended."""
        view = self._views.get(namespace)
        return view is not None and view.in_sight

    def blind(self, namespace: str) -> Fault | None:
        """What the API server refuses to show, or that the namespace is being removed."""
        view = self._views.get(namespace)
        if view is None:
            return Fault(Reason.NAMESPACE_MISSING, f"the service does not observe {namespace}")
        return view.fault

    async def examine(self, namespace: str) -> None:
        """Looks at the namespace itself."""
        if view := self._views.get(namespace):
            await view.examine()

    def addresses(self, sandbox: Sandbox) -> Addresses:
        """Names and URLs under the ingress domain."""
        return manifests.addresses(sandbox, self._settings)

    def observe(self, sandbox: Sandbox) -> Observed:
        """Returns what the informers remember of this sandbox."""
        return self._views[sandbox.namespace].observe(sandbox, self._contests.fault(sandbox))

    async def apply(self, sandbox: Sandbox, env: Mapping[str, str], replicas: int) -> int:
        """Applies the claim, unless the sandbox has its disk, the Secret, and the StatefulSet last."""
        write = self._begin(sandbox, replicas)
        try:
            objects = manifests.objects(sandbox, env, replicas, self._settings)
        except patch.Inapplicable as error:
            raise engines.Refused(Fault(Reason.ENGINE_REFUSED, str(error))) from None
        if not sandbox.volume_uid:
            await disk.make(write, objects.claim)
        await write.write(objects.secret)
        view = write.view
        if view.secret_missing(sandbox):
            view.supplied(sandbox)
        before = view.stateful_sets.get(sandbox.id)
        if before is not None and before.replicas < replicas:
            view.events.pass_by(sandbox.id)
        written = [observe.workload(await write.write(resource)) for resource in objects.watched]
        write.done()
        return observe.revision(written)

    async def touch(self, sandbox: Sandbox) -> int:
        """Applies the StatefulSet with the present time in an annotation."""
        view = self._views[sandbox.namespace]
        touched = manifests.touched(sandbox, self._settings, datetime.now(UTC).isoformat())
        await writer.apply(self._api, view.stateful_sets, touched, view.stateful_sets.uid(sandbox.id))
        # Never INCOMPLETE: while an object is missing, what is observed must not seem to be what was applied.
        return observe.revision([found for found in view.watched(sandbox) if found is not None])

    async def remove_workload(self, sandbox: Sandbox) -> None:
        """Deletes the StatefulSet in the foreground, as `removal` explains."""
        view = self._views[sandbox.namespace]
        if not view.namespace.ends:
            await removal.remove_workload(self._api, view, sandbox)

    async def delete(self, sandbox: Sandbox) -> None:
        """Asks for the removal of what is the sandbox's, in the order that `removal` explains.

        What is in a namespace that is being removed goes with it, without the service, whose Role goes as well.
        """
        view = self._views[sandbox.namespace]
        if view.namespace.ends:
            return
        write = self._begin(sandbox, None)
        try:
            await removal.remove(write)
        finally:
            # What was removed before a refusal may be made again as well.
            write.done()
        view.forget(sandbox)

    def _begin(self, sandbox: Sandbox, replicas: int | None) -> writer.Writer:
        """Returns the writer of an act that is about to be done. Raises what `Contests.begin` raises."""
        view = self._views[sandbox.namespace]
        begun = self._contests.begin(sandbox.key, (sandbox.generation, replicas))
        return writer.Writer(self._api, view, self._settings, sandbox, self._contests, begun)
