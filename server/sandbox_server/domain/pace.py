"""The time constants of the service."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Times in seconds, each with where its number comes from. Those that are settings have the same name there.

    A time is here if the service does something later, again or no more because it has passed. Tests of the service run at
    another pace: `Pace().faster(10)`.
    """

    start_deadline: float = 600
    """That an attempt to run may take before it is an error. A cold pull of a 2 GB image fits twice."""
    ready_for: float = 3
    """That a process must have been ready to count after a restart, or at a first start that no probe asks. One that ends by
    its own mistake ends sooner."""
    contested_ready_for: float = 3
    """That a new pod must have been ready to count while somebody takes back what the service writes. As `ready_for`."""
    resync: float = 60
    """Between two looks at every sandbox, and between two lists of an informer: what a lost wake-up costs at most."""
    retry_first: float = 0.2
    """Until a sandbox whose pass failed is tried again; doubles with each failure. No caller notices it once."""
    retry_most: float = 30
    """The longest such delay: a cause that goes away is noticed within half a minute even if no event reports it."""
    busy_after: float = 3
    """For which an engine answers that it cannot act now before this is given as a reason. An API server that has just been
    started gives such answers for a moment."""
    touch_every: float = 20
    """For which a pod may be missing before the controller of its workload is made to try again, and between two such
    times. So a cause that goes away is noticed as by `retry_most`."""
    controller_guard: float = 5
    """For which the controller of a workload may leave it as it is although it has to act. It needs less than a second where
    it works."""
    sync_check_every: float = 0.1
    """Between two looks at whether an unobservable namespace can be observed again. A look costs nothing, and no event tells."""
    restart_recent: float = 60
    """For which the last end of a process is recent while the process that followed has not become ready. Longer than each
    of the kubelet's first three delays between restarts, 10, 20 and 40 s."""
    home_look_every: float = 0.5
    """Between two looks at whether the pod that receives the files of a former pod runs, or is gone."""
    home_watch_every: float = 5
    """Between two looks at a pod in which a program of a move runs. Nothing else tells of a node that is lost, after 40 s."""
    home_released: float = 30
    """After a look at a former pod that has changed nothing, until that has to be looked at again unless it was recorded that the
    sandbox has settled. That takes milliseconds, and longer while the database is away."""
    home_again: float = 30
    """Until files that could not be copied from a former pod are copied again. A copy reads all of them, in a pod that works."""
    snapshot_look_every: float = 1
    """Between two looks at a snapshot that the storage takes or removes: no event tells of it, and it takes longer."""
    schedule_look_every: float = 1
    """Between two looks at which slots of schedules are due. They are minutes apart at least, and nobody sees a second."""
    verify_most: float = 4 * 3600
    """That the verification of a snapshot may take once it has begun. At 100 MB/s, with half of the time for the restore, it reads 700 GB."""
    last_snapshot_again: float = 30
    """Until a snapshot that a deletion waits for, and that has failed, is taken anew. As `retry_most`."""
    disruption_shown: float = 1
    """For which a disruption is reported at least, if the next pod is there before the disruption was observed: a person
    can see it."""
    log_every: float = 60
    """Between two log lines about failures with the same cause, which many sandboxes may share."""

    stale_after: float = 3
    """Without an answer of the API server after which what is remembered of a namespace is called stale. A list and a watch
    that fail once are tried again sooner."""
    watch_retry_most: float = 10
    """The longest delay until a list or a watch that failed is tried again; the first is `retry_first`, and each failure
    doubles it. Shorter than `retry_most`: one call brings a whole namespace back."""
    watch_most: float = 240
    """For which a watch is asked to last, or by chance half of it, so that not all watches end at once. Less than the five
    minutes after which load balancers commonly close a connection."""
    watch_lasting: float = 1
    """That a watch must last: one that ended before has failed, and is not begun anew at once."""
    contest_quiet: float = 45
    """Without a repetition after which an act is no longer contested. Longer than `retry_most`, the longest delay between two
    repetitions."""
    supply_every: float = 30
    """Between two writes of a Secret that a kubelet misses. A kubelet looks again within 15 s (its backOffPeriod)."""
    possible_within: float = 2
    """For the API server to say whether a disk can grow, and a pod be given other resources. A mutation waits for it, and is
    accepted without it."""
    resize_again: float = 600
    """Between two requests for a size of a disk, or for resources of a pod, that the API server refuses. The storage class or a
    quota has to change, which nothing announces."""
    credentials_every: float = 60
    """Between two reads of the credentials of a kubeconfig. The Kubernetes client reads a pod's token as often."""
    credentials_again: float = 5
    """Until a read of the credentials that failed is repeated: calls fail meanwhile, and a plugin may cost its provider a login."""
    farewell_within: float = 0.2
    """For an API server to answer that a WebSocket closes. Nothing depends on the answer, and an exec that ended with its node
    is waited for."""
    grants_every: float = 60
    """Between two questions whether the service may work in the pods of a namespace, as the contract says."""
    plugin_within: float = 30
    """For a credential plugin of a kubeconfig to end: it may ask a server of its provider."""

    heartbeat: float = 15
    """The longest silence of a watch, as the contract says. Proxies commonly end a stream that is silent for a minute."""
    follow: float = 1
    """Between two looks at the log for events of other replicas that nobody announced."""
    read_again: float = 0.5
    """Until a log that could not be read is read again. Sooner than `follow`, since events are known to be missing."""

    lease: float = 4
    """For which a replica holds a namespace after it last renewed the lease. Another replica takes over within five seconds of
    a kill, and a transaction that takes a second, or a pause of the process, loses no lease."""
    lease_every: float = 1
    """Between two renewals of all leases of a replica: three may fail."""
    cut_off_after: float = 5
    """For which a replica observes nothing of what it holds before it leaves its share to others. Longer than a list of
    everything takes after a watch broke, and than an API server needs to restart where several share an address."""
    listen_again: float = 1
    """Until a replica whose connection for notices broke connects again. Meanwhile it looks as often as `follow` says."""

    sqlite_busy_timeout: float = 5
    """For which a transaction waits for the lock of another process on SQLite, the default of Python's driver."""
    files_again: float = 1
    """Until replaced files that cannot be used are read again: they may be half replaced, or not valid yet."""

    call_most: float = 30
    """That a unary call may take even if its caller allows more, as the contract says."""
    message_within: float = 10
    """For the message of a call to arrive: it is at most 2 MiB."""
    last_calls: float = 0.2
    """From the end of the last call until connections are closed, for calls that were sent before their callers knew. Longer
    than a round trip around the world."""
    shutdown_grace: float = 10
    """For calls to finish after SIGTERM. Kubernetes gives a pod 30 s by default."""
    health_every: float = 1
    """Between two looks at whether the service can serve; a twentieth of it until it can for the first time. Probes
    commonly ask no more often."""
    health_within: float = 5
    """For the store to answer before it counts as gone. As `sqlite_busy_timeout`: a lock alone is no failure."""
    checked_within: float = 15
    """For a check of `sandbox-server doctor` to end. Longer than libpq and the API server are waited for, whose errors say
    more."""
    trim_every: float = 3600
    """Between two trims of the history, which is kept for a day at least."""

    ticket_for: float = 30
    """For which a ticket leads to a new terminal, as the contract says."""
    terminal_held: float = 60
    """For which a terminal waits for its browser to come back after a cut."""
    terminal_ping: float = 20
    """Between two pings to the browser of a terminal. One that does not answer has left."""
    terminal_most: int = 12 * 3600
    """That a terminal lasts. A replica that was killed cannot end those that nobody comes back to."""

    access_within: float = 10
    """For a program in a sandbox to answer, and for its input to be taken. A busy sandbox may be slow, and a call has 30 s."""
    usage_interval: float = 0
    """Between two measurements of the disk of a running sandbox; 0: they are not measured. A measurement runs a program in every
    sandbox, and on Kubernetes takes a connection through the API server, which only those pay for who want the condition."""
    usage_within: float = 5
    """For a disk to be measured that a status or the service itself asks for. A status is not waited for as long as a file."""
    access_stored_within: float = 120
    """For a file that was written to reach the disk of the sandbox, and for what works on many files. A slow disk takes a
    gigabyte in less."""
    access_look_first: float = 0.02
    """Until a signal for a command that does not run yet is sent again. A command begins within a few processes."""
    access_look_most: float = 0.25
    """Between two looks at whether the service stops, or input that a command did not read yet is taken now."""
    access_idle: float = 60
    """Without input after which a call that writes leaves the sandbox. One to an exec returns with the next input, which costs
    the start of a program; one of a file ends, as the contract says, and so does a read of a file that nobody takes."""
    access_end_shown_within: float = 2
    """For the end of a sandbox to show after that of a program in it."""

    port_settled: float = 0.3
    """Without a refusal of a kubelet, which does not say when it has connected to a port, after which the connection counts as
    open. A refusal within the pod needs a few round trips."""

    local_restart_first: float = 0.5
    """Until a local process that ended too soon is started again; doubles with each such end. The kubelet begins with
    10 s; on one machine somebody waits for it."""
    local_restart_most: float = 30
    """The longest such delay, and the one until a process that could not be started is tried again; as `retry_most`."""
    local_steady: float = 10
    """That a local process must run for its earlier ends to be forgotten. For the kubelet it is ten minutes."""
    local_after_error: float = 1
    """Until the task of a local sandbox goes on after an unforeseen error, so that its log lines do not fill the disk."""
    local_drained_within: float = 2
    """For the output of a local process that has ended to be in its log. A child that left the process group may print for
    ever."""
    local_alive: float = 0.15
    """That a local process without a probe must run to be ready. A process whose command does not exist ends sooner."""
    local_port_promised: float = 600
    """For which a port that was given out waits to be reserved: a create that fails does not give it back. Longer than any
    create takes."""
    local_look_every: float = 1
    """Between two looks at whether the volumes of local sandboxes are still there, and at where their logs end: no event reports
    the removal of a directory, and what a sandbox prints has no time."""
    local_turn: float = 1
    """For which a program that was run in a local sandbox and does not answer keeps others waiting that are to be run. A sandbox
    can see to that, with a file system that hangs. A program answers within milliseconds."""
    probe_within: float = 1
    """For an answer to a probe of a local process, the kubelet's default."""
    probe_until_ready: float = 0.2
    """Between two probes of a local process that is not ready. The kubelet probes every 10 s; on one machine somebody waits."""
    probe_after: float = 5
    """Between two probes of a local process that is ready. Half of the kubelet's 10 s."""
    probe_again: float = 1
    """Until a local process that was ready and missed a probe is probed again: three misses take no longer than `probe_after`."""

    def faster(self, factor: float) -> "Pace":
        """Returns the same pace with every time divided by `factor`."""
        return dataclasses.replace(
            self, **{one.name: getattr(self, one.name) / factor for one in dataclasses.fields(self)}
        )
