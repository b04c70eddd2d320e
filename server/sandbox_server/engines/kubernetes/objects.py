"""The fields that are read of the cluster's objects. All kinds have one shape, so that one decoder serves all.

The typed models of the `kubernetes` package take 80 times as long, and refuse what they do not know.
"""

from typing import NamedTuple, Self

import msgspec


class Managed(msgspec.Struct, frozen=True):
    """Which fields a manager owns."""

    manager: str = ""
    operation: str = ""
    fieldsV1: msgspec.Raw = msgspec.Raw()


class Owner(msgspec.Struct, frozen=True):
    """An owner reference: the object goes with its owner."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class Meta(msgspec.Struct, frozen=True):
    """The metadata of an object; or of a page: the version that it shows and where the next page begins."""

    name: str = ""
    uid: str = ""
    resourceVersion: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletionTimestamp: str | None = None
    finalizers: list[str] = []
    ownerReferences: list[Owner] = []
    managedFields: list[Managed] = []
    continue_: str = msgspec.field(default="", name="continue")


class State(msgspec.Struct, frozen=True):
    """A condition of a pod, or a state of a container."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    exitCode: int = 0


class Amounts(msgspec.Struct, frozen=True):
    """The resources of a container."""

    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


class Container(msgspec.Struct, frozen=True):
    """A container's status; `state` and `lastState` have one of the keys waiting, running and terminated.

    `resources` are those that it has; None from a kubelet that changes none.
    """

    name: str = ""
    ready: bool = False
    restartCount: int = 0
    imageID: str = ""
    state: dict[str, State] = {}
    lastState: dict[str, State] = {}
    resources: Amounts | None = None


class Status(msgspec.Struct, frozen=True):
    """The status of a pod, a claim or a StatefulSet."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[State] = []
    containerStatuses: list[Container] = []
    initContainerStatuses: list[Container] = []
    capacity: dict[str, str] = {}
    allocatedResources: dict[str, str] = {}
    allocatedResourceStatuses: dict[str, str] = {}
    observedGeneration: int = 0
    updateRevision: str = ""


class Requests(msgspec.Struct, frozen=True):
    """The resources of a claim."""

    requests: dict[str, str] = {}


class Named(msgspec.Struct, frozen=True):
    """A reference to an object of the same namespace."""

    name: str = ""


class Source(msgspec.Struct, frozen=True):
    """Where a container has variables from; `secretRef` is empty if that is no Secret."""

    secretRef: Named = Named()


class Mounted(msgspec.Struct, frozen=True):
    """Where a container has a volume."""

    mountPath: str = ""


class Made(msgspec.Struct, frozen=True):
    """A container as a pod is made with it."""

    name: str = ""
    envFrom: list[Source] = []
    resources: Amounts = Amounts()
    volumeMounts: list[Mounted] = []


class PodSpec(msgspec.Struct, frozen=True):
    """The spec of the pods of a StatefulSet."""

    containers: list[Made] = []


class Template(msgspec.Struct, frozen=True):
    """What the pods of a StatefulSet are made from."""

    spec: PodSpec = PodSpec()


class Spec(msgspec.Struct, frozen=True):
    """The spec of a StatefulSet, a claim or a pod."""

    replicas: int = 1
    resources: Requests = Requests()
    storageClassName: str = ""
    containers: list[Made] = []
    template: Template = Template()


class Involved(msgspec.Struct, frozen=True):
    """The object that an event is about."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    fieldPath: str = ""


class Object(msgspec.Struct, frozen=True):
    """An object of any kind; `data` is a Secret's, and the last three fields are an event's."""

    metadata: Meta = Meta()
    spec: Spec = Spec()
    status: Status = Status()
    data: dict[str, str] = {}
    involvedObject: Involved = Involved()
    reason: str = ""
    message: str = ""


class Known(NamedTuple):
    """An object as it was when it was last shown. A write that names it changes that very object, and no later state."""

    uid: str
    version: str

    @classmethod
    def of(cls, found: Object) -> Self:
        """Returns what is known of an object by `found`."""
        return cls(found.metadata.uid, found.metadata.resourceVersion)


class Page(msgspec.Struct, frozen=True):
    """A page of a list. `items` is null where an API server writes an empty list of metadata."""

    metadata: Meta
    items: list[Object] | None = None

    @property
    def objects(self) -> list[Object]:
        """The objects on the page."""
        return self.items or []


class Event(msgspec.Struct, frozen=True):
    """A line of a watch; the object of an ERROR is a `Failure`."""

    type: str
    object: msgspec.Raw


class Failure(msgspec.Struct, frozen=True):
    """A Status answer."""

    message: str = ""
    code: int = 0


OBJECT = msgspec.json.Decoder(Object)
PAGE = msgspec.json.Decoder(Page)
EVENT = msgspec.json.Decoder(Event)
FAILURE = msgspec.json.Decoder(Failure)
