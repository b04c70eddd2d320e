"""What is read of the cluster's objects: the few fields that matter, of every kind in one shape, so that one decoder
serves all. A typed model of everything costs 80 times as much, and refuses what it does not know."""

import msgspec


class Managed(msgspec.Struct, frozen=True):
    """Which fields a manager owns."""

    manager: str = ""
    operation: str = ""
    fieldsV1: msgspec.Raw = msgspec.Raw()


class Owner(msgspec.Struct, frozen=True):
    """An object with which another one goes."""

    kind: str = ""
    name: str = ""


class Meta(msgspec.Struct, frozen=True):
    """What every object has; of a page, the version that it shows and where the next one begins."""

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


class Said(msgspec.Struct, frozen=True):
    """A condition of a pod, or how a container waits, runs or has ended."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    exitCode: int = 0


class Container(msgspec.Struct, frozen=True):
    """A container's status; `state` and `lastState` have one of the keys waiting, running and terminated."""

    name: str = ""
    ready: bool = False
    restartCount: int = 0
    imageID: str = ""
    state: dict[str, Said] = {}
    lastState: dict[str, Said] = {}


class Status(msgspec.Struct, frozen=True):
    """A pod's, a claim's or a StatefulSet's."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[Said] = []
    containerStatuses: list[Container] = []
    initContainerStatuses: list[Container] = []
    capacity: dict[str, str] = {}
    observedGeneration: int = 0
    updateRevision: str = ""


class Requests(msgspec.Struct, frozen=True):
    """Of a claim."""

    requests: dict[str, str] = {}


class Spec(msgspec.Struct, frozen=True):
    """A StatefulSet's or a claim's."""

    replicas: int = 1
    resources: Requests = Requests()


class Involved(msgspec.Struct, frozen=True):
    """What an event is about."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    fieldPath: str = ""


class Object(msgspec.Struct, frozen=True):
    """An object of any kind; the last three fields are an event's."""

    metadata: Meta = Meta()
    spec: Spec = Spec()
    status: Status = Status()
    involvedObject: Involved = Involved()
    reason: str = ""
    message: str = ""


class Page(msgspec.Struct, frozen=True):
    """A page of a list. `items` is null where an API server writes an empty list of metadata."""

    metadata: Meta
    items: list[Object] | None = None

    @property
    def objects(self) -> list[Object]:
        """What is on the page."""
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
