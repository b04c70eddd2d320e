"""The cluster's fields and words, as its own programs write them, and the domain's."""

import json
from typing import Any

import msgspec
import pytest
from sandbox_server.domain.observed import Exit
from sandbox_server.domain.phase import Reason
from sandbox_server.engines.kubernetes import events, growth, observe
from sandbox_server.engines.kubernetes.objects import OBJECT, Meta, Object, State

MAKING = "the container is being made"
READY = {"type": "Ready", "status": "True"}
NOT_READY = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
SCHEDULED = {"type": "PodScheduled", "status": "True"}
RUNS = {
    "name": "sandbox",
    "ready": True,
    "imageID": "sha256:1",
    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
}


def pod(
    *conditions: dict[str, Any],
    containers: list[dict[str, Any]] | None = None,
    inits: list[dict[str, Any]] | None = None,
    **status: Any,
) -> Object:
    status |= {"conditions": list(conditions), "containerStatuses": containers or []}
    status |= {"initContainerStatuses": inits or []}
    return OBJECT.decode(json.dumps({"metadata": {"name": "a-0"}, "status": status}))


def waits(reason: str, message: str = "", **more: Any) -> list[dict[str, Any]]:
    return [{"name": "sandbox", "ready": False, "state": {"waiting": {"reason": reason, "message": message}}} | more]


def unscheduled(message: str, reason: str = "Unschedulable") -> dict[str, Any]:
    return {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}


ENDED = {"terminated": {"exitCode": 3, "reason": "Error"}}
KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (pod(READY, SCHEDULED, containers=[RUNS]), Reason.READY),
        (pod(), Reason.SCHEDULING),
        (pod(SCHEDULED), Reason.CONTAINER_CREATING),
        (pod(NOT_READY, SCHEDULED, containers=waits("ContainerCreating")), Reason.CONTAINER_CREATING),
        (pod(NOT_READY, SCHEDULED, containers=waits("PodInitializing")), Reason.CONTAINER_CREATING),
        (pod(NOT_READY, SCHEDULED, containers=waits("ErrImagePull", "not found")), Reason.IMAGE_PULL),
        (pod(NOT_READY, SCHEDULED, containers=waits("ImageInspectError")), Reason.IMAGE_PULL),
        (pod(NOT_READY, SCHEDULED, containers=waits("SignatureValidationFailed")), Reason.IMAGE_PULL),
        (pod(NOT_READY, SCHEDULED, containers=waits("InvalidImageName")), Reason.IMAGE_INVALID),
        (pod(NOT_READY, SCHEDULED, containers=waits("CreateContainerConfigError")), Reason.CONTAINER_CONFIG),
        (pod(NOT_READY, SCHEDULED, containers=waits("RunContainerError")), Reason.CONTAINER_CONFIG),
        (pod(NOT_READY, SCHEDULED, containers=waits("PostStartHookError")), Reason.CONTAINER_CONFIG),
        (pod(NOT_READY, SCHEDULED, containers=waits("CrashLoopBackOff", lastState=ENDED)), Reason.CRASH_LOOP),
        (pod(NOT_READY, SCHEDULED, containers=waits("CrashLoopBackOff", lastState=KILLED)), Reason.OUT_OF_MEMORY),
        (pod(NOT_READY, SCHEDULED, containers=waits("CrashLoopBackOff")), Reason.CRASH_LOOP),
        (pod(NOT_READY, SCHEDULED, containers=[RUNS | {"ready": False}]), Reason.NOT_READY),
        (pod(NOT_READY, SCHEDULED, containers=[RUNS | {"ready": False, "state": ENDED}]), Reason.RESTARTING),
        (pod(NOT_READY, SCHEDULED, containers=[RUNS | {"ready": False, "state": KILLED}]), Reason.OUT_OF_MEMORY),
        # The node controller turns the condition and says no more.
        (pod(READY | {"status": "False"}, SCHEDULED, containers=[RUNS]), Reason.NODE_LOST),
        # The kubelet, while a load balancer's readiness gate is missing.
        (pod(NOT_READY | {"reason": "ReadinessGatesNotReady"}, SCHEDULED, containers=[RUNS]), Reason.NOT_READY),
        (pod(unscheduled("0/3 nodes are available: 3 Insufficient cpu.")), Reason.UNSCHEDULABLE),
        (
            pod(unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not eligible")),
            Reason.SCHEDULING,
        ),
        (pod(unscheduled('0/1 nodes are available: persistentvolumeclaim "x" not found.')), Reason.VOLUME_PENDING),
        (pod(unscheduled('persistentvolumeclaim "x" is being deleted')), Reason.VOLUME_PENDING),
        (
            pod(unscheduled("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated")),
            Reason.SCHEDULING,
        ),
    ],
)
def test_what_a_pod_says(found: Object, reason: Reason) -> None:
    assert observe.pod(found).reason is reason


@pytest.mark.fault(60)
@pytest.mark.find(8)
@pytest.mark.parametrize("word", ["StartError", "ContainerCannotRun"])
def test_command_that_cannot_start_is_a_container_config_in_every_state(word: str) -> None:
    """A kubelet passes through these states in turn; the words are those of runc."""
    words = 'exec: "no-such": executable file not found in $PATH'
    end = {"terminated": {"exitCode": 128, "reason": word, "message": words}}
    states = [
        waits("RunContainerError", words),
        waits("RunContainerError", words, lastState=end),
        waits("CrashLoopBackOff", "back-off 10s", lastState=end),
        waits("ContainerCreating", lastState=end),
        [RUNS | {"ready": False, "state": end}],
        [RUNS | {"ready": False, "state": end, "lastState": end}],
    ]
    seen = [observe.pod(pod(NOT_READY, SCHEDULED, containers=one)) for one in states]
    assert [(one.reason, one.message) for one in seen] == [(Reason.CONTAINER_CONFIG, words)] * len(states)


@pytest.mark.fault(60)
@pytest.mark.find(8)
def test_command_that_could_not_start_before_counts_no_more_once_it_runs() -> None:
    end = {"terminated": {"exitCode": 128, "reason": "StartError", "message": "words"}}
    runs = RUNS | {"ready": False, "lastState": end}
    assert observe.pod(pod(NOT_READY, SCHEDULED, containers=[runs])).reason is Reason.NOT_READY


@pytest.mark.fault(60)
@pytest.mark.find(8)
def test_end_without_the_runtimes_words_has_its_reason_for_a_message() -> None:
    end = {"terminated": {"exitCode": 128, "reason": "StartError"}}
    found = observe.pod(pod(NOT_READY, SCHEDULED, containers=waits("CrashLoopBackOff", lastState=end)))
    assert (found.reason, found.message) == (Reason.CONTAINER_CONFIG, "StartError")


PASSING = [
    "failed to sync secret cache: timed out waiting for the condition",
    "failed to sync configmap cache: timed out waiting for the condition",
    'object "default"/"a-env" not registered',
    "services have not yet been read at least once, cannot construct envvars",
    "secrets is forbidden: User \"system:node:n\" cannot get it: no relationship found between node 'n' and this object",
    'Get "https://10.0.0.1:443/api/v1/namespaces/default/secrets/a-env": dial tcp 10.0.0.1:443: connect: connection refused',
    'failed to reserve container name "sandbox_a-0_default_u_0": name "sandbox_a-0_default_u_0" is reserved for "1"',
    "context deadline exceeded",
    "rpc error: code = Unavailable desc = error reading from server: EOF",
]
PULL = 'failed to pull and unpack image "registry.example/a:1": failed to resolve reference "registry.example/a:1": '
PASSING_PULLS = [
    PULL + 'failed to do request: Head "https://registry.example/v2/a/manifests/1": dial tcp 10.0.0.1:443: i/o timeout',
    PULL + 'failed to do request: Head "https://registry.example/v2/a/manifests/1": net/http: TLS handshake timeout',
    PULL + "dial tcp: lookup registry.example on 10.0.0.10:53: server misbehaving",
    PULL + "unexpected status from HEAD request to https://registry.example/v2/a/manifests/1: 503 Service Unavailable",
    PULL
    + "unexpected status code https://registry.example/v2/a/manifests/1: 429 Too Many Requests - toomanyrequests: ",
    "pull QPS exceeded",
]
LASTING_PULLS = [
    PULL + "registry.example/a:1: not found",
    PULL + "pull access denied, repository does not exist or may require authorization",
    PULL + "401 Unauthorized",
    PULL.replace("example/a", "example/toomanyrequests/timeout") + "not found",
    "no match for platform in manifest: not found",
]


@pytest.mark.fault(59)
@pytest.mark.find(7)
@pytest.mark.parametrize("word", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"])
@pytest.mark.parametrize("words", PASSING)
def test_what_the_kubelet_gets_over_by_itself_is_no_error(word: str, words: str) -> None:
    found = observe.pod(pod(NOT_READY, SCHEDULED, containers=waits(word, words)))
    assert (found.reason, found.message) == (Reason.CONTAINER_CREATING, words)


@pytest.mark.find(7)
@pytest.mark.parametrize(
    "words", ["", 'configmap "theirs" not found', "container has runAsNonRoot and image will run as root"]
)
def test_what_only_a_change_gets_over_is_a_container_config(words: str) -> None:
    found = observe.pod(pod(NOT_READY, SCHEDULED, containers=waits("CreateContainerConfigError", words)))
    assert found.reason is Reason.CONTAINER_CONFIG


@pytest.mark.find(7)
@pytest.mark.parametrize(
    ("word", "words", "passing"),
    [
        *(("ErrImagePull", one, True) for one in PASSING_PULLS + LASTING_PULLS),
        *(("ImagePullBackOff", f'Back-off pulling image "x": ErrImagePull: {one}', True) for one in PASSING_PULLS),
        *(("ImagePullBackOff", f'Back-off pulling image "x": ErrImagePull: {one}', False) for one in LASTING_PULLS),
        ("ErrImageNeverPull", "not present with pull policy of Never", False),
    ],
)
def test_pull_that_failed_once_or_got_no_answer_may_pass(word: str, words: str, passing: bool) -> None:
    found = observe.pod(pod(NOT_READY, SCHEDULED, containers=waits(word, words)))
    assert (found.reason, found.message, found.passing) == (Reason.IMAGE_PULL, words, passing)


@pytest.mark.parametrize("containers", [[], waits("ContainerCreating")])
def test_a_pod_without_volumes_or_network_leaves_the_word_to_events(containers: list[dict[str, Any]]) -> None:
    """kubelet/types/constants.go has the condition's name."""
    begun = {"type": "PodReadyToStartContainers", "status": "False"}
    assert observe.pod(pod(SCHEDULED, begun, containers=containers)).message == ""
    assert observe.pod(pod(SCHEDULED, begun | {"status": "True"}, containers=containers)).message == MAKING


@pytest.mark.parametrize(
    ("kind", "name", "sandbox", "reason", "told"),
    [
        ("StatefulSet", "a", "a", "FailedCreate", "words"),
        # controller/statefulset/stateful_set_control.go: it makes the pod anew
        ("StatefulSet", "a", "a", "RecreatingFailedPod", ""),
        ("PersistentVolumeClaim", "vn-homevn-agent-a-0", "a", "ProvisioningFailed", "words"),
        ("Pod", "a-0", "a", "FailedMount", "words"),
        # An id may look like the name of a claim.
        ("Pod", "vn-homevn-agent-a-0", "vn-homevn-agent-a", "FailedMount", "words"),
    ],
)
def test_kubernetes_event_is_read_with_its_sandbox_and_cause(
    kind: str, name: str, sandbox: str, reason: str, told: str
) -> None:
    involved = {"kind": kind, "name": name, "uid": "u"}
    found = OBJECT.decode(json.dumps({"involvedObject": involved, "reason": reason, "message": "words"}))
    assert (events.identify(found), events.read(found)[0]) == (("u", sandbox), told)


@pytest.mark.find(13)
@pytest.mark.parametrize(
    "times",
    [
        {"lastTimestamp": "2026-01-02T03:04:05Z"},
        {"lastTimestamp": None, "eventTime": "2026-01-02T03:04:05.000000Z"},
        {
            "eventTime": "2026-01-02T03:04:05.000000Z",
            "series": {"count": 2, "lastObservedTime": "2026-01-02T03:09:05.000000Z"},
        },
        {},
        # What metav1.Time makes of the year 0, and of the first second of the year 1 further east.
        {"lastTimestamp": "0000-01-01T00:00:00Z"},
        {"lastTimestamp": "0000-12-31T23:00:00Z"},
    ],
)
def test_event_counts_whatever_its_times_are(times: dict[str, Any]) -> None:
    involved = {"kind": "StatefulSet", "name": "a", "uid": "u"}
    found = {"involvedObject": involved, "reason": "FailedCreate", "message": "words", **times}
    found["metadata"] = {"name": "e", "resourceVersion": "7"}
    assert events.read(OBJECT.decode(json.dumps(found))) == ("words", 7)


@pytest.mark.parametrize("name", ["a-injected", "z-injected"])
def test_a_container_that_was_injected_beside_the_sandboxs_is_not_taken_for_it(name: str) -> None:
    injected = RUNS | {"name": name, "restartCount": 9}
    crashed = waits("CrashLoopBackOff", lastState=ENDED, restartCount=4)
    told = observe.pod(pod(NOT_READY, SCHEDULED, containers=sorted([injected, *crashed], key=lambda one: one["name"])))
    assert (told.reason, told.restart_count, told.last_exit) == (Reason.CRASH_LOOP, 13, Exit(3, "Error"))
    assert "3" in told.message


@pytest.mark.parametrize(
    ("containers", "pulled"),
    [
        (waits("ImagePullBackOff"), False),
        (waits("InvalidImageName"), False),
        (waits("ContainerCreating"), None),
        (waits("CrashLoopBackOff", imageID="sha256:1"), True),
        ([RUNS], True),
    ],
)
def test_whether_the_image_was_pulled(containers: list[dict[str, Any]], pulled: bool | None) -> None:
    assert observe.pod(pod(NOT_READY, SCHEDULED, containers=containers)).image_pulled is pulled


@pytest.mark.parametrize("text", ["", "x", "-1", "²", "9" * 5000])
def test_a_generation_that_somebody_wrote_by_hand_is_none_of_ours(text: str) -> None:
    """It must not be an error: one such object would hide all others of its namespace."""
    meta = {"name": "a-0", "annotations": {"sandbox.fullstackagent.io/generation": text}}
    found = OBJECT.decode(json.dumps({"metadata": meta}))
    assert (observe.pod(found).generation, observe.workload(found).generation) == (0, 0)


NOT_MADE = "create Pod a-0 in StatefulSet a failed error: "


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "a-0" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0', Reason.QUOTA_EXCEEDED),
        (NOT_MADE + 'pods "a-0" is forbidden: failed quota: q: must specify limits.cpu for: x', Reason.QUOTA_EXCEEDED),
        ('pods "a-0" is forbidden: insufficient quota to consume: pods', Reason.QUOTA_EXCEEDED),
        (
            'secrets "a-env" is forbidden: unable to create new content in namespace x because it is being terminated',
            Reason.NAMESPACE_TERMINATING,
        ),
        ('namespaces "x" not found', Reason.NAMESPACE_MISSING),
        (
            'secrets "a-env" is forbidden: User "u:x:y" cannot patch resource "secrets" in API group "" in the namespace "x"',
            Reason.CLUSTER_FORBIDDEN,
        ),
        ("Unauthorized", Reason.CLUSTER_FORBIDDEN),
        (NOT_MADE + 'pods "a-0" is forbidden: violates PodSecurity "restricted:latest": no', Reason.ADMISSION_DENIED),
        ('admission webhook "w" denied the request: a quota of words is being terminated', Reason.ADMISSION_DENIED),
        (
            "statefulsets.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
            Reason.ADMISSION_DENIED,
        ),
        ('StatefulSet.apps "a" is invalid: spec: Forbidden: updates to statefulset spec', Reason.ENGINE_REFUSED),
        ("the server could not find the requested resource", Reason.ENGINE_REFUSED),
    ],
)
def test_what_a_refusal_says(message: str, reason: Reason) -> None:
    assert observe.refused(message).reason is reason
    assert observe.refused(message).message == message


@pytest.mark.find(45)
@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"message": "a"}}}, "a"),
        ({"state": {"terminated": {"message": "b"}}, "lastState": {"terminated": {"message": "a"}}}, "b"),
        ({"state": {"running": {}}, "lastState": {"terminated": {"message": "a"}}}, "a"),
    ],
)
def test_the_words_of_the_latest_end_are_observed(container: dict[str, Any], words: str) -> None:
    last = observe.pod(pod(NOT_READY, SCHEDULED, containers=[{"name": "sandbox"} | container])).last_exit
    assert last is not None
    assert last.message == words


INITIALIZING = waits("PodInitializing")
UNREADY = RUNS | {"ready": False}
BACK_OFF = "back-off 10s restarting failed container=c pod=a-0"
FAILS = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no route"}}
DONE = {"name": "c", "ready": True, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}


def other(**more: Any) -> list[dict[str, Any]]:
    return [{"name": "c", "ready": False} | more]


@pytest.mark.fault(63)
@pytest.mark.find(11)
@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"state": {"waiting": {"reason": "CrashLoopBackOff", "message": BACK_OFF}}}, ("CrashLoopBackOff", BACK_OFF)),
        (
            {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": BACK_OFF}}, "lastState": FAILS},
            ("CrashLoopBackOff", BACK_OFF, "exit code 1", "no route"),
        ),
        ({"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}, ("ErrImagePull", "not found")),
        ({"state": {"waiting": {"reason": "ImagePullBackOff"}}}, ("ImagePullBackOff",)),
        ({"state": {"waiting": {"reason": "InvalidImageName"}}}, ("InvalidImageName",)),
        (
            {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "no key"}}},
            ("ConfigError", "no key"),
        ),
        ({"state": {"waiting": {"reason": "RunContainerError"}}}, ("RunContainerError",)),
        ({"state": {"waiting": {"reason": "PostStartHookError"}}}, ("PostStartHookError",)),
        ({"state": FAILS}, ("exit code 1", "no route")),
        ({"state": KILLED}, ("exit code 137", "OOMKilled")),
    ],
)
@pytest.mark.parametrize("beside", ["init", "native sidecar", "sidecar"])
def test_failing_other_container_is_named_with_its_state_and_message(
    beside: str, state: dict[str, Any], words: tuple[str, ...]
) -> None:
    """An init container keeps the sandbox's from being made; a sidecar fails while that runs, ready or not."""
    failing = other(**state, restartCount=2)
    cases = {
        "init": [pod(NOT_READY, SCHEDULED, inits=failing, containers=INITIALIZING)],
        "native sidecar": [pod(NOT_READY, SCHEDULED, inits=failing, containers=[one]) for one in (RUNS, UNREADY)],
        "sidecar": [pod(NOT_READY, SCHEDULED, containers=[one, *failing]) for one in (RUNS, UNREADY)],
    }
    for found in cases[beside]:
        seen = observe.pod(found)
        assert (seen.reason, seen.restart_count) == (Reason.OTHER_CONTAINER, 2)
        for one in ("container c: ", *words):
            assert one in seen.message


@pytest.mark.fault(63)
@pytest.mark.find(11)
@pytest.mark.parametrize(
    ("found", "reason", "words"),
    [
        (
            pod(NOT_READY, SCHEDULED, inits=other(state={"running": {}}), containers=INITIALIZING),
            Reason.CONTAINER_CREATING,
            "the init container c runs",
        ),
        (
            pod(NOT_READY, SCHEDULED, inits=[DONE], containers=waits("ContainerCreating")),
            Reason.CONTAINER_CREATING,
            MAKING,
        ),
        (
            pod(NOT_READY, SCHEDULED, containers=[*waits("ContainerCreating"), *other(state={"running": {}})]),
            Reason.CONTAINER_CREATING,
            MAKING,
        ),
        (
            pod(NOT_READY, SCHEDULED, containers=[RUNS, *other(state={"running": {}})]),
            Reason.NOT_READY,
            "the container c runs; it is not ready yet",
        ),
        (
            pod(NOT_READY, SCHEDULED, containers=[UNREADY, *other(state={"running": {}})]),
            Reason.NOT_READY,
            "the container runs; it is not ready yet",
        ),
        # What the caller can change comes first.
        (
            pod(NOT_READY, SCHEDULED, containers=[*waits("ErrImagePull", "mine"), *other(state=FAILS)]),
            Reason.IMAGE_PULL,
            "mine",
        ),
    ],
)
def test_what_a_pod_waits_for_beside_its_own_container_is_reported(found: Object, reason: Reason, words: str) -> None:
    begun = {"type": "PodReadyToStartContainers", "status": "True"}
    status = msgspec.structs.replace(found.status, conditions=[*found.status.conditions, msgspec.convert(begun, State)])
    seen = observe.pod(msgspec.structs.replace(found, status=status))
    assert (seen.reason, seen.message[: len(words)]) == (reason, words)


@pytest.mark.fault(63)
@pytest.mark.find(11)
def test_closed_readiness_gate_is_reported_with_the_message_of_its_condition() -> None:
    words = 'the status of pod readiness gate "lb.example/a" is not "True", but False'
    ready = NOT_READY | {"reason": "ReadinessGatesNotReady", "message": words}
    gate = {"type": "lb.example/a", "status": "False", "reason": "Initial", "message": "the target is being registered"}
    seen = observe.pod(pod(ready, SCHEDULED, gate, containers=[RUNS]))
    assert (seen.reason, seen.message) == (Reason.NOT_READY, f"{words}; the target is being registered")


@pytest.mark.fault(63)
@pytest.mark.find(11)
def test_words_of_containers_are_marked_as_a_part_of_the_message() -> None:
    seen = observe.pod(pod(NOT_READY, SCHEDULED, containers=[RUNS, *other(state=FAILS)]))
    assert seen.quoted == "no route"
    redacted = seen.quoting("[redacted]", "")
    assert redacted.message == seen.message.replace("no route", "[redacted]")
    assert seen.quoting("", "").message == seen.message.removesuffix(": no route")


@pytest.mark.fault(63)
@pytest.mark.find(11)
@pytest.mark.parametrize("word", ["ErrImagePull", "CreateContainerConfigError"])
def test_failure_of_another_container_that_may_pass_is_marked(word: str) -> None:
    state = {"waiting": {"reason": word, "message": "failed to sync secret cache: timed out waiting for the condition"}}
    seen = observe.pod(pod(NOT_READY, SCHEDULED, inits=other(state=state), containers=INITIALIZING))
    assert (seen.reason, seen.passing) == (Reason.OTHER_CONTAINER, True)
    assert "failed to sync" in seen.message


GONE = {"deletionTimestamp": "2026-01-01T00:00:00Z", "name": "a-0", "uid": "u"}
KILLED_HERE = [RUNS | {"ready": False, "state": KILLED}]


def target(reason: str, message: str = "words") -> dict[str, Any]:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


@pytest.mark.fault(62)
@pytest.mark.find(10)
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"reason": "Evicted", "message": "The node was low on resource: memory. "}, Reason.EVICTED),
        ({"reason": "Evicted", "message": "Pod The node had condition: [DiskPressure]. "}, Reason.EVICTED),
        ({"reason": "Preempting", "message": "Preempted in order to admit critical pod"}, Reason.PREEMPTED),
        ({"reason": "Terminated", "message": "imminent node shutdown"}, Reason.NODE_SHUTDOWN),
        ({"reason": "NodeShutdown", "message": "Pod was rejected"}, Reason.NODE_SHUTDOWN),
        ({"reason": "Shutdown", "message": "Node is shutting, evicting pods"}, Reason.NODE_SHUTDOWN),
        ({"reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"}, Reason.NODE_REJECTED),
        ({"reason": "OutOfpods", "message": "Node didn't have enough resource: pods"}, Reason.NODE_REJECTED),
        ({"reason": "NodeAffinity", "message": "Predicate NodeAffinity failed"}, Reason.NODE_REJECTED),
        ({"reason": "UnexpectedAdmissionError", "message": "no devices"}, Reason.NODE_REJECTED),
    ],
)
@pytest.mark.parametrize(
    "containers", [[], KILLED_HERE, waits("ContainerCreating"), waits("CrashLoopBackOff", lastState=ENDED)]
)
@pytest.mark.parametrize(
    "conditions", [[], [SCHEDULED], [SCHEDULED, NOT_READY | {"reason": "PodFailed"}], [SCHEDULED, READY]]
)
def test_end_of_a_whole_pod_comes_before_the_states_of_its_containers(
    status: dict[str, str], reason: Reason, containers: list[dict[str, Any]], conditions: list[dict[str, Any]]
) -> None:
    seen = observe.pod(pod(*conditions, containers=containers, phase="Failed", **status))
    assert (seen.reason, seen.ready) == (reason, False)
    assert seen.message == f"{status['reason']}: {status['message']}".strip()
    assert seen.disruption is not None
    assert seen.disruption.reason is reason


@pytest.mark.fault(62)
@pytest.mark.find(10)
@pytest.mark.parametrize(
    ("word", "message", "reason"),
    [
        (
            "PreemptionByScheduler",
            "default-scheduler: preempting to accommodate a higher priority pod",
            Reason.PREEMPTED,
        ),
        ("EvictionByEvictionAPI", "Eviction API: evicting", Reason.DRAINED),
        ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", Reason.NODE_TAINTED),
        ("DeletionByPodGC", "PodGC: node no longer exists", Reason.NODE_LOST),
        ("TerminationByKubelet", "The node was low on resource: memory. ", Reason.EVICTED),
        ("TerminationByKubelet", "Pod was preempted by Kubelet to accommodate a critical pod.", Reason.PREEMPTED),
        ("TerminationByKubelet", "Pod was terminated in response to imminent node shutdown.", Reason.NODE_SHUTDOWN),
        ("ByAnother", "", Reason.EVICTED),
    ],
)
def test_disruption_target_is_reported_for_a_terminating_pod(word: str, message: str, reason: Reason) -> None:
    found = pod(READY, SCHEDULED, target(word, message), containers=[RUNS])
    assert observe.pod(found).disruption is None
    going = msgspec.structs.replace(found, metadata=msgspec.convert(GONE, Meta))
    fallen = pod(NOT_READY, SCHEDULED, target(word, message), containers=KILLED_HERE)
    failed = pod(NOT_READY, SCHEDULED, target(word, message), containers=KILLED_HERE, phase="Failed")
    for one in (going, fallen, failed):
        seen = observe.pod(one)
        assert seen.disruption is not None
        assert (seen.reason, seen.disruption.reason) == (reason, reason)
        assert message.strip() in seen.message


@pytest.mark.fault(62)
@pytest.mark.find(10)
def test_pod_that_is_removed_by_hand_is_no_disruption() -> None:
    found = pod(NOT_READY, SCHEDULED, containers=KILLED_HERE)
    assert observe.pod(msgspec.structs.replace(found, metadata=msgspec.convert(GONE, Meta))).disruption is None


def event(reason: str, path: str = "", kind: str = "Pod", message: str = "words") -> Object:
    involved = {"kind": kind, "name": "a-0", "uid": "u", "fieldPath": path}
    return OBJECT.decode(json.dumps({"involvedObject": involved, "reason": reason, "message": message}))


@pytest.mark.find(12)
@pytest.mark.parametrize(
    ("reason", "stops"),
    [
        ("FailedMount", True),
        ("FailedAttachVolume", True),
        ("FailedMapVolume", True),
        ("FailedCreatePodSandBox", True),
        ("FailedPrepareDynamicResources", True),
        ("FailedSync", True),
        ("NetworkNotReady", True),
        ("InspectFailed", True),
        ("MissingClusterDNS", False),
        ("DNSConfigForming", False),
        ("CheckLimitsForResolvConf", False),
        ("FailedToRetrieveImagePullSecret", False),
        ("AlreadyMountedVolume", False),
        ("InvalidDiskCapacity", False),
        ("NodeNotReady", False),
        ("BackOff", False),
        ("ProbeWarning", False),
        ("FailedPreStopHook", False),
        ("ExceededGracePeriod", False),
    ],
)
def test_only_what_stops_a_start_is_remembered_as_the_pods_cause(reason: str, stops: bool) -> None:
    name, sandbox = events.identify(event(reason))
    assert (name == "u", sandbox) == (stops, "a")


@pytest.mark.find(12)
def test_answer_to_a_probe_is_remembered_beside_the_cause_and_names_another_container() -> None:
    own = event("Unhealthy", "spec.containers{sandbox}", message="Readiness probe failed: statuscode: 404")
    assert (events.identify(own)[0], events.read(own)[0]) == (events.probe_of("u"), own.message)
    mesh = event("Unhealthy", "spec.initContainers{mesh}")
    assert events.read(mesh)[0] == "container mesh: words"


@pytest.mark.parametrize(
    ("seen", "told", "reason"),
    [
        (2, {}, None),
        (1, {}, Reason.RESIZING),
        (0, {"resources": {"limits": {"cpu": "2"}}}, None),
        # Before 1.33: it runs with what it was made with.
        (0, {}, Reason.RESIZING),
    ],
)
def test_resources_hold_once_a_kubelet_that_changes_them_has_seen_them(
    seen: int, told: dict[str, Any], reason: Reason | None
) -> None:
    status = {"observedGeneration": seen, "containerStatuses": [RUNS | told]}
    growing = growth.of_pod(OBJECT.decode(json.dumps({"metadata": {"name": "a-0", "generation": 2}, "status": status})))
    assert (growing and growing.reason) == reason
