"""The files of a Deployment of a former system are moved to a disk, and the sandbox that has them takes its place."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sandbox_server.adoption import Adoption, Wanted
from sandbox_server.domain.adoption import Entry, Outcome
from sandbox_server.domain.event import Cause, Kind
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines import kubernetes
from sandbox_server.settings import Defaults

from tests.support import former_objects as former
from tests.support import homes
from tests.support.former_objects import DEPLOYMENTS, OLDER, REPLICA_SETS
from tests.support.rig import Rig
from tests.support.scripted import CLAIMS, INGRESSES, PODS, SERVICES, SETS, until
from tests.support.scripted_api import ScriptedApi, status

CLAIM = f"vn-homevn-agent-{OLDER}-0"


async def adopt(rig: Rig, *, keeps_pods: bool = False, dry: bool = False, undo: bool = False) -> Entry:
    settings = rig.ground.settings
    found = await kubernetes.discover(settings.kubernetes, settings.pace, "default", "", "", Defaults())
    wanted = Wanted("default", "default", keeps_pods, dry, Cause(Kind.MUTATION, "test"))
    adoption = Adoption(rig.store, rig.engine)
    (entry,) = await (adoption.give_back if undo else adoption.adopt)(wanted, found)
    return entry


def made(api: ScriptedApi, *, volume: bool = False, **spec: Any) -> Path:
    """A Deployment that runs; the home of its pod, which has files. `volume`: it is an emptyDir."""
    objects = former.objects("deployment.yaml")
    former.of_kind(objects, "Deployment")["spec"] |= spec
    if volume:
        pod = former.of_kind(objects, "Deployment")["spec"]["template"]["spec"]
        pod["volumes"] = [{"name": "home", "emptyDir": {}}]
        pod["containers"][0]["volumeMounts"] = [{"name": "home", "mountPath": "/home/agent"}]
    former.put(api, objects)
    if spec.get("replicas") == 0:
        return Path()
    home = api.kubelet.home(former.pod_of(api, OLDER))
    homes.fill(home)
    return home


def disk(api: ScriptedApi) -> Path:
    return api.kubelet.disk(api.objects[CLAIMS][CLAIM]["metadata"]["uid"])


class Hook:
    """Does something, once, right before a program begins that has a word in its script."""

    def __init__(self, api: ScriptedApi, word: str, act: Callable[[], object]) -> None:
        self._api, self._word, self._act = api, word, act
        self.done = False
        api.kubelet.before_start = self._begins

    def _begins(self) -> None:
        if not self.done and self._word in str(self._api.kubelet.commands[-1]):
            self.done = True
            self._act()


RECEIVES = "tar -xpf"


def everything(api: ScriptedApi) -> dict[str, Any]:
    """The spec and the metadata of every object, without what each write changes."""
    found: dict[str, Any] = {}
    for where, one in [(where, one) for where, objects in api.objects.items() for one in objects.values()]:
        kept = ("name", "uid", "labels", "annotations", "ownerReferences")
        meta = {name: one["metadata"][name] for name in kept if one["metadata"].get(name)}
        found[f"{where}/{meta['name']}"] = (meta, one.get("spec"))
    return found


async def settled(rig: Rig, phase: Phase, generation: int = 1) -> Sandbox:
    return await rig.until(OLDER, lambda one: one.status.phase is phase and one.generation == generation)


@pytest.mark.slow
async def test_a_deployment_is_moved_with_every_file_and_its_urls(api: ScriptedApi, rig: Rig) -> None:
    home = made(api)
    files, urls = homes.snapshot(home), {name: one["spec"] for name, one in api.objects[INGRESSES].items()}
    entry = await adopt(rig)
    assert (entry.kind, entry.outcome) == ("Deployment", Outcome.ADOPTED)
    await settled(rig, Phase.RUNNING)
    await until(lambda: not api.objects[DEPLOYMENTS] and not api.objects[REPLICA_SETS])
    await until(lambda: [*api.objects[PODS]] == [f"{OLDER}-0"])
    assert homes.snapshot(disk(api)) == files
    assert (disk(api) / "sparse").stat().st_blocks < 100
    for name, spec in urls.items():
        assert api.objects[INGRESSES][name]["spec"] == spec
    service = api.objects[SERVICES][f"{OLDER}-service"]["spec"]
    assert service["clusterIP"] == "10.96.14.4"
    labels = api.objects[PODS][f"{OLDER}-0"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert len(api.starts) == 1
    said = {one.status.reason for one in rig.history}
    assert Reason.HOME_MOVING in said
    assert Phase.ERROR not in {one.status.phase for one in rig.history}


@pytest.mark.slow
async def test_without_a_moment_to_end_its_pod_a_deployment_is_skipped(api: ScriptedApi, rig: Rig) -> None:
    made(api)
    before = everything(api)
    entry = await adopt(rig, keeps_pods=True)
    assert (entry.outcome, "--restart now" in entry.why) == (Outcome.SKIPPED, True)
    assert (await adopt(rig, dry=True)).outcome is Outcome.ADOPTED
    assert everything(api) == before
    assert await rig.store.load() == (0, [])


@pytest.mark.slow
async def test_what_changes_while_it_is_copied_is_copied_again(api: ScriptedApi, rig: Rig) -> None:
    home = made(api)

    def change() -> None:
        (home / "late").write_text("late")
        (home / "run").unlink()
        (home / "other name").write_text("b")
        shutil.rmtree(home / "deep")
        (home / "deep").write_text("a file now")
        (home / "dangling").unlink()
        (home / "dangling").mkdir()

    hook = Hook(api, RECEIVES, change)
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    assert hook.done
    assert homes.snapshot(disk(api)) == homes.snapshot(home)
    assert len(api.starts) == 1


@pytest.mark.slow
async def test_what_is_written_after_the_copy_stops_the_sandbox_until_it_has_that_too(
    api: ScriptedApi, rig: Rig
) -> None:
    home = made(api)

    def write() -> None:
        api.kubelet.before_start = lambda: None
        (home / "late").write_text("late")
        (disk(api) / "by the new pod").write_text("to be forgotten")

    def watch() -> None:
        if f"{OLDER}-0" in api.objects[PODS]:
            write()

    api.kubelet.before_start = watch
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    assert (disk(api) / "late").read_text() == "late"
    assert homes.snapshot(disk(api)) == homes.snapshot(home)
    assert len(api.starts) == 2


LISTS = "find . -xdev ! -type s"


def crash(api: ScriptedApi, *, crashes: bool) -> None:
    """Has the process of the sandbox crash from now on, or run."""
    (api.crashing.add if crashes else api.crashing.discard)(OLDER)
    api.control("default", OLDER)


@pytest.mark.slow
async def test_what_is_written_after_the_look_at_the_former_pod_counts_until_the_sandbox_has_settled(
    api: ScriptedApi, rig: Rig
) -> None:
    home = made(api)

    def watch() -> None:
        if f"{OLDER}-0" in api.objects[PODS] and LISTS in str(api.kubelet.commands[-1]):
            api.kubelet.before_start = lambda: None
            crash(api, crashes=True)

    api.kubelet.before_start = watch
    await adopt(rig)
    assert (await settled(rig, Phase.ERROR)).status.reason is Reason.CRASH_LOOP
    (home / "late").write_text("late")
    crash(api, crashes=False)
    await settled(rig, Phase.RUNNING)
    assert homes.snapshot(disk(api)) == homes.snapshot(home)
    await until(lambda: not api.objects[DEPLOYMENTS])


@pytest.mark.slow
async def test_files_of_a_volume_are_there_when_their_container_starts_anew(api: ScriptedApi, rig: Rig) -> None:
    home = made(api, volume=True)
    pod = former.pod_of(api, OLDER)["metadata"]["name"]

    def restart() -> None:
        (home / "late").write_text("late")
        api.restart_container("default", pod)

    hook = Hook(api, RECEIVES, restart)
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    assert hook.done
    assert homes.snapshot(disk(api)) == homes.snapshot(home)


@pytest.mark.slow
async def test_a_former_pod_that_is_gone_after_the_copy_is_given_up_by_who_stops_the_sandbox(
    api: ScriptedApi, rig: Rig
) -> None:
    files = homes.snapshot(made(api))
    api.crashing.add(OLDER)
    await adopt(rig)
    assert (await settled(rig, Phase.ERROR)).status.reason is Reason.CRASH_LOOP
    api.delete(PODS, former.pod_of(api, OLDER)["metadata"]["name"])
    crash(api, crashes=False)
    lost = await rig.until(OLDER, lambda one: one.status.reason is Reason.HOME_NOT_MOVED)
    assert (lost.status.phase, "stop the sandbox" in lost.status.message) == (Phase.ERROR, True)
    assert api.objects[DEPLOYMENTS]
    await rig.begin(OLDER, Phase.STOPPED)
    await settled(rig, Phase.STOPPED, 2)
    await until(lambda: not api.objects[DEPLOYMENTS])
    assert homes.snapshot(disk(api)) == files


@pytest.mark.slow
async def test_a_former_pod_whose_node_does_not_answer_is_waited_for(api: ScriptedApi, rig: Rig) -> None:
    home = made(api)
    api.crashing.add(OLDER)
    await adopt(rig)
    await settled(rig, Phase.ERROR)
    pod = former.pod_of(api, OLDER)
    silent = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "Unknown"}]
    api.put(PODS, pod | {"status": pod["status"] | {"conditions": silent}})
    (home / "late").write_text("late")
    crash(api, crashes=False)
    looked = len(api.calls)
    look = ("GET", f"/{PODS}/{pod['metadata']['name']}")
    await until(lambda: api.calls[looked:].count(look) > 3)
    assert (await rig.until(OLDER, lambda one: one.status.reason is Reason.HOME_MOVING)).status.phase is Phase.STARTING
    assert api.objects[DEPLOYMENTS]
    api.put(PODS, former.pod_of(api, OLDER) | {"status": pod["status"]})
    await settled(rig, Phase.RUNNING)
    assert (disk(api) / "late").read_text() == "late"


@pytest.mark.slow
async def test_the_receiving_pod_goes_with_the_stateful_set(api: ScriptedApi, rig: Rig) -> None:
    made(api)
    owners: list[str] = []
    receiver = f"{OLDER}-receiver"

    def look() -> None:
        owners.extend(one["uid"] for one in api.objects[PODS][receiver]["metadata"]["ownerReferences"])

    Hook(api, RECEIVES, look)
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    assert owners == [api.objects[SETS][OLDER]["metadata"]["uid"]]


@pytest.mark.slow
async def test_a_deployment_that_may_not_be_looked_at_is_removed_once_it_may(api: ScriptedApi, rig: Rig) -> None:
    made(api)

    def looks(request: web.Request) -> bool:
        return request.method == "GET" and request.path.endswith(f"/{DEPLOYMENTS}/{OLDER}")

    async def refuse(_: web.Request) -> web.Response:
        return status(403, f'deployments.apps "{OLDER}" is forbidden: User "s" cannot get resource "deployments"')

    misdeed = (looks, refuse)
    api.lasting.append(misdeed)
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    assert api.objects[DEPLOYMENTS]
    api.lasting.remove(misdeed)
    await until(lambda: not api.objects[DEPLOYMENTS])
    await until(lambda: "over" in str(api.objects[CLAIMS][CLAIM]["metadata"]["annotations"]))
    api.lasting.append(misdeed)
    await rig.env(OLDER, MORE="1")
    await rig.until(OLDER, lambda one: one.status.observed_generation == 2)


@pytest.mark.slow
async def test_a_deployment_whose_pod_wrote_after_it_was_replaced_stays(api: ScriptedApi, rig: Rig) -> None:
    home = made(api)

    def watch() -> None:
        if "app" not in api.objects[SERVICES][f"{OLDER}-service"]["spec"]["selector"]:
            (home / "late").write_text("late")

    api.kubelet.before_start = watch
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    await until((home / "late").exists)
    entry = await adopt(rig)
    assert (entry.kind, entry.outcome, "delete the Deployment" in entry.why) == ("Deployment", Outcome.UNCHANGED, True)
    await rig.env(OLDER, MORE="1")
    await settled(rig, Phase.RUNNING, 2)
    assert OLDER in api.objects[DEPLOYMENTS]
    assert former.pod_of(api, OLDER)
    assert not (disk(api) / "late").exists()


@pytest.mark.slow
async def test_a_home_that_changes_all_the_time_is_not_cut_over(api: ScriptedApi, rig: Rig) -> None:
    home = made(api)
    before = everything(api)
    api.kubelet.before_start = lambda: (home / "log").write_bytes(os.urandom(8)) and None
    await adopt(rig)
    sandbox = await settled(rig, Phase.ERROR)
    assert sandbox.status.reason is Reason.HOME_NOT_MOVED
    assert "'log'" in sandbox.status.message
    assert api.starts == []
    assert everything(api)[f"{DEPLOYMENTS}/{OLDER}"] == before[f"{DEPLOYMENTS}/{OLDER}"]
    api.kubelet.before_start = lambda: None
    await settled(rig, Phase.RUNNING)
    assert homes.snapshot(disk(api)) == homes.snapshot(home)


@pytest.mark.slow
async def test_a_home_that_changes_every_time_that_its_sandbox_has_started_is_left_alone_for_a_while(
    api: ScriptedApi, rig: Rig
) -> None:
    home = made(api)

    def watch() -> None:
        if f"{OLDER}-0" in api.objects[PODS]:
            (home / "tick").write_bytes(os.urandom(8))

    api.kubelet.before_start = watch
    await adopt(rig)
    sandbox = await settled(rig, Phase.ERROR)
    assert (sandbox.status.reason, "'tick'" in sandbox.status.message) == (Reason.HOME_NOT_MOVED, True)
    assert len(api.starts) == 3
    api.kubelet.before_start = lambda: None
    await settled(rig, Phase.RUNNING)
    assert homes.snapshot(disk(api)) == homes.snapshot(home)


@pytest.mark.slow
async def test_a_copy_that_is_cut_off_goes_on_with_what_is_missing(api: ScriptedApi, rig: Rig) -> None:
    home = made(api)
    (home / "zz").write_bytes(os.urandom(1 << 20))
    api.kubelet.cut_at = 7 << 19
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    assert api.kubelet.cut_at == 0
    assert homes.snapshot(disk(api)) == homes.snapshot(home)
    first, second, *_ = [int(words[-1]) for words in api.kubelet.commands if "tar --format" in str(words)]
    assert 0 < second < first


@pytest.mark.slow
async def test_a_pod_that_starts_anew_during_the_copy_is_no_longer_its_source(api: ScriptedApi, rig: Rig) -> None:
    made(api)
    pod = former.pod_of(api, OLDER)["metadata"]["name"]
    before = everything(api)
    Hook(api, RECEIVES, lambda: api.restart_container("default", pod))
    await adopt(rig)
    sandbox = await settled(rig, Phase.ERROR)
    assert sandbox.status.reason is Reason.HOME_NOT_MOVED
    assert pod in sandbox.status.message
    assert api.starts == []
    assert (await adopt(rig, undo=True)).outcome is Outcome.GIVEN_BACK
    await settled(rig, Phase.TERMINATED, 2)
    await until(lambda: everything(api) == before)


@pytest.mark.slow
async def test_an_image_without_the_programs_is_said_to_lack_them(
    api: ScriptedApi, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(api)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    await adopt(rig)
    sandbox = await settled(rig, Phase.ERROR)
    assert sandbox.status.reason is Reason.HOME_NOT_MOVED
    assert "GNU tar" in sandbox.status.message


@pytest.mark.slow
async def test_it_is_given_back_while_it_is_copied(api: ScriptedApi, rig: Rig) -> None:
    home = made(api)
    files, before = homes.snapshot(home), everything(api)
    hook = Hook(api, RECEIVES, lambda: None)
    await adopt(rig)
    await until(lambda: hook.done)
    assert (await adopt(rig, undo=True)).outcome is Outcome.GIVEN_BACK
    assert (await settled(rig, Phase.TERMINATED, 2)).status.reason is Reason.GIVEN_BACK
    await until(lambda: everything(api) == before)
    assert homes.snapshot(home) == files


@pytest.mark.slow
async def test_what_programs_have_mapped_is_on_the_disk_before_the_home_is_listed(
    api: ScriptedApi, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = made(api)
    sync = tmp_path / "bin" / "sync"
    sync.parent.mkdir()
    sync.write_text("#!/bin/sh\necho stored > mapped\nexit 1\n")
    sync.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sync.parent}:{os.environ['PATH']}")
    Hook(api, RECEIVES, sync.unlink)
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    assert (disk(api) / "mapped").read_text() == "stored\n"
    assert homes.snapshot(disk(api)) == homes.snapshot(home)


@pytest.mark.slow
async def test_it_is_given_back_while_its_sandbox_does_not_start(api: ScriptedApi, rig: Rig) -> None:
    made(api)
    before = everything(api)
    api.crashing.add(OLDER)
    await adopt(rig)
    assert (await settled(rig, Phase.ERROR)).status.reason is Reason.CRASH_LOOP
    assert (await adopt(rig, undo=True)).outcome is Outcome.GIVEN_BACK
    await settled(rig, Phase.TERMINATED, 2)
    await until(lambda: everything(api) == before)


@pytest.mark.slow
async def test_it_is_not_given_back_once_it_has_run(api: ScriptedApi, rig: Rig) -> None:
    made(api)
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    settings = rig.ground.settings
    found = await kubernetes.discover(settings.kubernetes, settings.pace, "default", "", "", Defaults())
    wanted = Wanted("default", "default", False, False, Cause(Kind.MUTATION, "test"))
    for entry in await Adoption(rig.store, rig.engine).give_back(wanted, found):
        assert entry.outcome is Outcome.SKIPPED
    await until(lambda: not api.objects[DEPLOYMENTS])
    assert (await settled(rig, Phase.RUNNING)).adopted is not None


@pytest.mark.slow
async def test_one_that_is_stopped_meanwhile_has_its_files_when_it_starts(api: ScriptedApi, rig: Rig) -> None:
    home = made(api)
    files = homes.snapshot(home)
    await adopt(rig)
    await rig.begin(OLDER, Phase.STOPPED)
    await settled(rig, Phase.STOPPED, 2)
    await until(lambda: not api.objects[DEPLOYMENTS])
    assert homes.snapshot(disk(api)) == files
    assert api.starts == []
    await rig.manager.start(rig.mutation(OLDER), False)
    await settled(rig, Phase.RUNNING, 3)
    assert homes.snapshot(disk(api)) == files


@pytest.mark.slow
async def test_one_that_is_deleted_meanwhile_takes_the_deployment_with_it(api: ScriptedApi, rig: Rig) -> None:
    made(api)
    hook = Hook(api, RECEIVES, lambda: None)
    await adopt(rig)
    await until(lambda: hook.done)
    await rig.delete(OLDER)
    await settled(rig, Phase.TERMINATED, 2)
    await until(
        lambda: not any(api.objects[one] for one in (DEPLOYMENTS, REPLICA_SETS, PODS, CLAIMS, SERVICES, INGRESSES))
    )


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"state": {"waiting": {"reason": "CrashLoopBackOff"}}}, "CRASH_LOOP"),
        ({"state": {"waiting": {"reason": "ImagePullBackOff"}}}, "IMAGE_PULL"),
        ({}, "is being removed"),
        (None, "several pods"),
    ],
)
@pytest.mark.slow
async def test_a_pod_that_is_down_is_reported_and_never_touched(
    api: ScriptedApi, rig: Rig, state: dict[str, Any] | None, says: str
) -> None:
    made(api)
    pod = former.pod_of(api, OLDER)
    if state is None:
        metadata = {one: pod["metadata"][one] for one in ("labels", "ownerReferences")} | {"name": "another"}
        api.put(PODS, pod | {"metadata": metadata})
    elif state:
        status = {"name": OLDER, "ready": False, "restartCount": 3} | state
        conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]
        api.put(PODS, pod | {"status": {"phase": "Running", "conditions": conditions, "containerStatuses": [status]}})
    else:
        api.put(PODS, pod | {"metadata": pod["metadata"] | {"deletionTimestamp": "2026-01-02T03:04:05Z"}})
    before = everything(api)
    entry = await adopt(rig)
    assert entry.outcome is Outcome.SKIPPED
    assert says in entry.why
    assert everything(api) == before


async def test_a_deployment_without_a_pod_is_reported(api: ScriptedApi, rig: Rig) -> None:
    made(api, replicas=0)
    entry = await adopt(rig)
    assert (entry.outcome, "went with the last one" in entry.why) == (Outcome.SKIPPED, True)
