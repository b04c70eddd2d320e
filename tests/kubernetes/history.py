"""What was announced, held against what the API server showed to an independent witness.

Nobody can say which objects there were at the very moment of an announcement: it is made at one place and the objects
are at another. What can be said is this. Right after each announcement the API server is asked, as the administrator, for
its present revision R, by a read that is not from a cache of its own past. The witness has every version of every object
of the namespace from its creation to its removal, and one count of revisions orders the changes of all kinds.

RUNNING of generation G: whatever the service saw before it announced is older than R. So a version of a pod of
    generation G that is ready and not going, with a revision of R or less, must be in the witness's history. There is
    none if the service took an older pod's word for it.
STOPPED at generation G: a pod that is there at R, or comes later, was there when it was announced, or came although none
    was to come; unless it was made for a newer mutation. That mutation shows: it is a version of the StatefulSet with replicas
    and a generation above G, older than the pod.
TERMINATED: likewise, and no mutation follows: each sandbox has a uid of its own, which its pods and claims bear.

So no true announcement is ever blamed. What is missed is a pod that went in the milliseconds between announcement and R.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.kubernetes.manifests import GENERATION, UID

from tests.kubernetes.witness import Sight, condition


@dataclass
class Life:
    """An object from its creation to its removal, by the cluster's revisions."""

    resource: str
    uid: str
    born: int
    died: float = math.inf
    versions: list[Sight] = field(default_factory=list)

    @property
    def owner(self) -> str:
        return str(self.annotation(self.versions[-1], UID))

    @staticmethod
    def annotation(sight: Sight, name: str) -> Any:
        return sight.value["metadata"].get("annotations", {}).get(name, "")

    def generation(self, sight: Sight) -> int:
        return int(self.annotation(sight, GENERATION) or 0)

    def __str__(self) -> str:
        name = self.versions[-1].value["metadata"]["name"]
        return f"{self.resource} {name} {self.uid} of generation {self.generation(self.versions[-1])} [{self.born}, {self.died})"


def lives(seen: Iterable[Sight]) -> list[Life]:
    """Every object that the witness saw, but events."""
    found: dict[str, Life] = {}
    for sight in seen:
        if sight.resource == "events":
            continue
        uid = sight.value["metadata"]["uid"]
        life = found.setdefault(uid, Life(sight.resource, uid, sight.version))
        life.versions.append(sight)
        if sight.type == "DELETED":
            life.died = sight.version
    return list(found.values())


def violations(announced: Iterable[tuple[Sandbox, int]], seen: Iterable[Sight]) -> Iterator[str]:
    """What was announced and was not so. `announced`: with the revision that the API server had right after."""
    all_lives = lives(seen)
    by_owner: dict[str, list[Life]] = {}
    for life in all_lives:
        by_owner.setdefault(life.owner, []).append(life)
    checks = {Phase.RUNNING: _running, Phase.STOPPED: _stopped, Phase.TERMINATED: _terminated}
    for sandbox, revision in announced:
        check = checks.get(sandbox.status.phase)
        if check is not None:
            adopted = [one for one in all_lives if one.uid == sandbox.volume_uid and one.owner != sandbox.uid]
            for what in check(sandbox, revision, by_owner.get(sandbox.uid, []) + adopted):
                yield f"{sandbox.id} {sandbox.uid} {sandbox.status.phase.name} at {sandbox.generation}, {revision}: {what}"


def _running(sandbox: Sandbox, revision: int, own: list[Life]) -> Iterator[str]:
    ready = condition("Ready", "True")
    for life in own:
        for sight in life.versions if life.resource == "pods" else ():
            current = (
                life.generation(sight) == sandbox.generation and "deletionTimestamp" not in sight.value["metadata"]
            )
            if sight.version <= revision and current and ready(sight):
                return
    yield "no pod of this generation was ready"


def _stopped(sandbox: Sandbox, revision: int, own: list[Life]) -> Iterator[str]:
    starts = [
        sight.version
        for life in own
        for sight in life.versions
        if life.resource == "statefulsets"
        and sight.value["spec"]["replicas"] > 0
        and life.generation(sight) > sandbox.generation
    ]
    start = min(starts, default=math.inf)
    for life in own:
        if life.resource == "pods" and life.died > revision and life.born < start:
            yield f"{life} is there"


def _terminated(sandbox: Sandbox, revision: int, own: list[Life]) -> Iterator[str]:
    for life in own:
        disk = life.resource == "persistentvolumeclaims"
        if life.died > revision and not (disk and sandbox.keep_volume):
            yield f"{life} is there"
        if disk and sandbox.keep_volume and life.uid == sandbox.volume_uid and life.died <= revision:
            yield f"{life} is gone"
