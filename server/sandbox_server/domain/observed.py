"""What an engine shows of a sandbox now. All frozen."""

from dataclasses import dataclass, replace
from datetime import datetime

from sandbox_server.domain import check
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.spec import Resources


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended: its code (128 + signal number for a signal) and the engine's reason.

    `message` is the end of its output where it failed: as it was from the engine, `words.last` of it in a status.
    """

    code: int
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the engine could not do what it was asked, or the cluster cannot make the pod."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The StatefulSet (or its local counterpart) as it now is.

    `owner` is the uid of the sandbox that it was made for; empty for a foreign one. `revision` changes whenever somebody
    changes or removes an object that was made for the sandbox. `fault` says why its pod cannot be made.
    `controller_caught_up`: its controller has seen it as it is, so that nothing more comes of what it was before.
    `ignored_at`: from when on its controller is taken not to act; None if the controller has nothing to do.
    `template` names the template of its pods; empty if the template has no name. `held_by`: the finalizers of others that
    keep it while it is being removed. `environments` names what may hold the environment of its pods.
    """

    owner: str
    generation: int
    replicas: int
    revision: int
    terminating: bool = False
    fault: Fault | None = None
    controller_caught_up: bool = True
    ignored_at: datetime | None = None
    template: str = ""
    held_by: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Disruption:
    """The end of a whole pod that neither the caller nor the service asked for. `pod`: its uid."""

    pod: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Growth:
    """Where a change of a volume, or of a pod, stands, or why it is not made. `message` has the words of the cluster, if any."""

    reason: Reason
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """The pod (or the local process) as it now is.

    `reason` says why it is not ready: SCHEDULING, CONTAINER_CREATING, NOT_READY, RESTARTING or an error; READY if it is
    ready. `quoted` is the part of the message that comes from a container or its runtime, unchanged.
    `passing`: the reason is an error that may be over with the next try, such as a pull that failed once. `image_pulled`
    is None if it is unknown. `restart_count` counts the restarts of all its containers. `probed`: it becomes ready by the
    answer to a probe, and not as soon as its process runs. `awaits_probe`: a container runs and has not had that answer
    yet. `ready_at` is when its readiness counts; None: at once.
    `recent_until` is when the last end of a process stops being recent; None: no process ended, or the pod has been ready
    since. `template` names the template that it was made from, as the workload does. `incarnation` names the start of its
    process that runs; empty while none does. `last_exit_of` names the start that ended with `last_exit`.
    `requested` is what the cluster is asked to give it; None if that is not known.
    `resize` says why it does not have the resources of the sandbox, if they changed while it ran. `awaits_resize`: they have
    yet to be asked for. `unresizable`: the engine refuses to give them to it, so that another pod has to.
    """

    owner: str
    generation: int
    uid: str = ""
    ready: bool
    reason: Reason
    message: str = ""
    quoted: str = ""
    passing: bool = False
    terminating: bool = False
    scheduled: bool = False
    image_pulled: bool | None = None
    restart_count: int = 0
    last_exit: Exit | None = None
    disruption: Disruption | None = None
    probed: bool = True
    awaits_probe: bool = False
    ready_at: datetime | None = None
    recent_until: datetime | None = None
    template: str = ""
    incarnation: str = ""
    last_exit_of: str = ""
    requested: Resources | None = None
    resize: Growth | None = None
    awaits_resize: bool = False
    unresizable: bool = False

    def outdated(self, workload: Workload, pod_generation: int) -> bool:
        """Whether the workload has another template now than the pod was made from.

        `pod_generation` is the sandbox's, which the template of a later workload has too.
        """
        named = self.template != "" and workload.template != ""
        older = self.generation < min(workload.generation, pod_generation)
        return older or (named and self.template != workload.template)

    def counts(self, now: datetime) -> bool:
        """Whether the pod is ready, and long enough after the last end of a process."""
        return self.ready and (self.ready_at is None or now >= self.ready_at)

    def quoting(self, quoted: str, last_words: str) -> "Pod":
        """The pod with other words of its containers: `quoted` in its message, `last_words` in its last exit."""
        message = self.message.replace(self.quoted, quoted).removesuffix(": ") if self.quoted else self.message
        last_exit = self.last_exit and replace(self.last_exit, message=last_words)
        return replace(self, message=message, quoted=quoted, last_exit=last_exit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The claim (or directory) as it now is. `lost`: the volume that it was bound to no longer exists.

    `size` is what the disk has. `requested` is what its claim asks for; empty if it has whatever the sandbox asks for.
    `growth` is None while the cluster says nothing of it. `refused`: the cluster has lately refused to let the claim ask for
    the size of the sandbox. `held_by`: the finalizers of others that keep it while it is being removed. `home`: what the engine
    has noted there of a home that is moved to it.
    `misled` says why it has not the files of what it was to be made from; empty if it has, or may get them yet.
    """

    owner: str
    uid: str
    name: str
    size: str
    bound: bool
    terminating: bool = False
    lost: bool = False
    requested: str = ""
    growth: Growth | None = None
    refused: bool = False
    held_by: tuple[str, ...] = ()
    home: str = ""
    misled: str = ""

    @property
    def bound_and_kept(self) -> bool:
        """Whether it is bound and not being removed."""
        return self.bound and not self.terminating

    def needs_request(self, size: str) -> bool:
        """Whether its claim has to ask for `size` before the disk can have that.

        A disk that has more stays so, and an unbound claim cannot change. What was refused lately is not asked for again.
        """
        asked = check.amount(size)
        lacks = check.amount(self.size) < asked and check.amount(self.requested) != asked
        return lacks and self.requested != "" and self.bound_and_kept and not self.refused


@dataclass(frozen=True, slots=True)
class Move:
    """The move of the files of a sandbox out of the pod of a former system.

    `copied`: they are on the disk, so that the sandbox may start. `due`: the engine waits to be asked for the next step.
    `failure` says why the last step failed; empty if it did not.
    """

    copied: bool
    due: bool
    message: str
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the engine shows now.

    `unobservable` says why nothing of the sandbox's namespace can be observed; all other fields are empty then. `fault`
    says that what the service writes for this sandbox does not last, `namespace` why the namespace takes nothing new: it
    is being removed with everything in it, or it does not exist.

    `disruption`: the last one of a pod of the sandbox, of the present pod or of one before it. `nearly_full`: whether the
    disk is, as it was last measured; None if that is not known. `restoring`: what is waited for before the disk can be made
    from its origin, in words; empty if nothing is. `move`: where the move of
    the home out of a former pod stands; None if there is none, or it is done.
    """

    workload: Workload | None = None
    pod: Pod | None = None
    volume: Volume | None = None
    disruption: Disruption | None = None
    fault: Fault | None = None
    namespace: Fault | None = None
    unobservable: Fault | None = None
    nearly_full: bool | None = None
    restoring: str = ""
    move: Move | None = None

    def controller_due(self, pod_generation: int) -> bool:
        """Whether the controller of the workload has to act: it has not seen the workload as it is, or has left a pod that
        is to go or that is broken and outdated. A workload without a pod that others hold waits for them alone.

        `pod_generation` is the sandbox's.
        """
        workload, pod = self.workload, self.pod
        if workload is None or (pod is not None and pod.terminating):
            return False
        if pod is None:
            return not (workload.controller_caught_up or workload.held_by)
        if not workload.controller_caught_up or workload.replicas == 0:
            return True
        return pod.outdated(workload, pod_generation) and not pod.ready
