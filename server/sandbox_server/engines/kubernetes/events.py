"""What the events of a namespace say about StatefulSets, pods and claims."""

from collections.abc import Sequence

from sandbox_server.engines.kubernetes.cache import Cache

SELECTORS = ("type=Warning,reason!=FailedScheduling", "reason=FailedBinding")
"""The events that are read. What the scheduler says stands in the pod as well. An unbound claim without a class is
reported with type Normal (controller/volume/persistentvolume/pv_controller.go)."""


class Events:
    """The messages of events by the uid of the object that they are about.

    An event that came before the last pod of a StatefulSet does not explain why the next pod is missing. No clock decides
    which came first. Events are compared with events alone, because their versions may be those of a separate etcd.
    """

    def __init__(self, caches: Sequence[Cache[tuple[str, int]]]) -> None:
        """`caches` has one cache for each of `SELECTORS`."""
        self._caches = caches
        # Of each sandbox: the version of each cache when a pod was last there or asked for.
        self._passed: dict[str, tuple[int, ...]] = {}

    def message(self, uid: str) -> str:
        """Returns what an event says of the object with that uid; empty if there is none."""
        for cache in self._caches:
            found = cache.get(uid)
            if found is not None:
                return found[0]
        return ""

    def obstacle(self, sandbox_id: str, stateful_set_uid: str) -> str:
        """Returns what an event says keeps the controller from making the next pod; empty if there is none.

        Until a pod was seen by this process, every event counts that the cluster still keeps.
        """
        passed_versions = self._passed.get(sandbox_id, (0,) * len(self._caches))
        for cache, passed in zip(self._caches, passed_versions, strict=True):
            message, version = cache.get(stateful_set_uid) or ("", 0)
            went_backwards = passed > cache.version
            if message and (version > passed or went_backwards):
                return message
        return ""

    def pass_by(self, sandbox_id: str) -> None:
        """Declares that no event so far explains why the next pod is missing."""
        self._passed[sandbox_id] = tuple(cache.version for cache in self._caches)

    def forget(self, sandbox_id: str) -> None:
        """Drops what `pass_by` noted."""
        self._passed.pop(sandbox_id, None)
