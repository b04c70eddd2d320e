"""The enumerations of a sandbox's state. Their numbers and meanings are those of the contract."""

from sandbox_server.domain.open_enum import OpenEnum


class DesiredState(OpenEnum):
    """The state that the caller last asked for."""

    RUNNING = 1
    STOPPED = 2
    DELETED = 3


class Phase(OpenEnum):
    """The state of a sandbox, which follows from what is desired and what is observed."""

    CREATING = 1
    STARTING = 2
    RUNNING = 3
    UPDATING = 4
    STOPPING = 5
    STOPPED = 6
    TERMINATING = 7
    TERMINATED = 8
    ERROR = 9


class Reason(OpenEnum):
    """The cause of the phase."""

    ACCEPTED = 1
    WORKLOAD_PENDING = 2
    SCHEDULING = 3
    VOLUME_BINDING = 4
    CONTAINER_CREATING = 5
    NOT_READY = 6
    ROLLING_OUT = 7
    RESTARTING = 8
    READY = 9
    POD_TERMINATING = 10
    POD_GONE = 11
    VOLUME_TERMINATING = 12
    DELETED = 13
    VOLUME_KEPT = 14
    IMAGE_PULL = 15
    IMAGE_INVALID = 16
    CRASH_LOOP = 17
    OUT_OF_MEMORY = 18
    CONTAINER_CONFIG = 19
    UNSCHEDULABLE = 20
    QUOTA_EXCEEDED = 21
    ADMISSION_DENIED = 22
    VOLUME_PENDING = 23
    VOLUME_LOST = 24
    NODE_LOST = 25
    NAME_CONFLICT = 26
    START_DEADLINE = 27
    NAMESPACE_MISSING = 28
    NAMESPACE_TERMINATING = 29
    CLUSTER_FORBIDDEN = 30
    ENGINE_REFUSED = 31
    CLUSTER_BUSY = 32
    EVICTED = 33
    PREEMPTED = 34
    DRAINED = 35
    NODE_SHUTDOWN = 36
    NODE_REJECTED = 37
    NODE_TAINTED = 38
    OTHER_CONTAINER = 39
    FIELD_CONFLICT = 40
    VOLUME_EXPANDING = 41
    VOLUME_EXPANDS_AT_START = 42
    CLASS_NOT_EXPANDABLE = 43
    EXPANSION_INFEASIBLE = 44
    RESIZING = 45
    RESIZE_DEFERRED = 46
    RESIZE_INFEASIBLE = 47
    HOME_NOT_MOVED = 48
    LAST_SNAPSHOT = 49
    DISK_NOT_MEASURED = 50
    DISK_FULL_SOON = 51
    VOLUME_RESTORING = 52
    RESTORE_FAILED = 53
    GIVEN_BACK = 56
    HOME_MOVING = 57

    @property
    def is_error(self) -> bool:
        """Whether the reason says what prevents the desired state, so that it can occur with Phase.ERROR.

        The reasons before IMAGE_PULL are of a sandbox that is on its way or there; all later ones are errors, but for
        LAST_SNAPSHOT, VOLUME_RESTORING, GIVEN_BACK, HOME_MOVING and those of conditions alone.
        """
        if self in (Reason.LAST_SNAPSHOT, Reason.VOLUME_RESTORING, Reason.GIVEN_BACK, Reason.HOME_MOVING):
            return False
        return self.value >= Reason.IMAGE_PULL.value and not self.is_of_condition

    @property
    def is_of_condition(self) -> bool:
        """Whether the reason is that of a condition alone: the phase does not depend on it."""
        of_change = Reason.VOLUME_EXPANDING.value <= self.value <= Reason.RESIZE_INFEASIBLE.value
        return of_change or self in (Reason.DISK_NOT_MEASURED, Reason.DISK_FULL_SOON)

    @property
    def is_failed_run(self) -> bool:
        """Whether the reason is a process that ended or could not start.

        Such a process is started again and again: that it runs between two failures is no recovery.
        """
        return self in (Reason.CRASH_LOOP, Reason.OUT_OF_MEMORY, Reason.CONTAINER_CONFIG, Reason.OTHER_CONTAINER)

    @property
    def is_disruption(self) -> bool:
        """Whether the reason is the end of a whole pod that neither the caller nor the service asked for."""
        return Reason.EVICTED.value <= self.value <= Reason.NODE_TAINTED.value


class ConditionType(OpenEnum):
    """One aspect of a sandbox."""

    SCHEDULED = 1
    VOLUME_BOUND = 2
    IMAGE_PULLED = 3
    READY = 4
    ENV_APPLIED = 5
    VOLUME_SIZED = 6
    RESOURCES_APPLIED = 7
    DISK_NEARLY_FULL = 8
