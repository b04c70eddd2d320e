"""The Role in `deploy/` is what the service needs and no more."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from sandbox_server.domain.phase import Phase, Reason

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.ground import RBAC, ROLE, KubernetesGround, may
from tests.kubernetes.node import MERGE, Node
from tests.support.rig import Rig
from tests.support.waiting import PATIENCE, eventually

A = "rights-a"
RULES: list[dict[str, list[str]]] = yaml.safe_load(ROLE.read_text())["rules"]
RIGHTS = [
    (group, resource, verb)
    for rule in RULES
    for group in rule["apiGroups"]
    for resource in rule["resources"]
    for verb in rule["verbs"]
]
AT_ONCE = 6


async def whole_life(rig: Rig) -> None:
    """Create, env update, stop, start, delete with the disk kept, adoption, delete."""
    await rig.create(A, {"A": "1"})
    await rig.settled(A, Phase.RUNNING, 60)
    await rig.env(A, A="2")
    await rig.settled(A, Phase.RUNNING, 60)
    for phase in (Phase.STOPPED, Phase.RUNNING):
        await rig.begin(A, phase)
        await rig.settled(A, phase, 60)
    await rig.delete(A, keep=True)
    await rig.settled(A, Phase.TERMINATED, 60)
    await rig.create(A, adopt=True)
    await rig.settled(A, Phase.RUNNING, 60)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED, 60)


def forbidden(ground: KubernetesGround, words: str = "") -> list[dict[str, Any]]:
    """Calls of the service that were answered 403."""
    refused = [one for one in ground.cluster.audited(ground.namespace) if one["responseStatus"]["code"] == 403]
    return [one for one in refused if words in reason(one)]


def reason(call: dict[str, Any]) -> str:
    """The API server's words, as the call was told them; of a create by a patch only they say that it is a create."""
    words = f'cannot {call["verb"]} resource "{call["objectRef"]["resource"]}"'
    return str(call["responseStatus"].get("message", words))


def test_the_role_has_no_wildcard_and_sees_no_secret_that_it_is_not_asked_for() -> None:
    role = yaml.safe_load(ROLE.read_text())
    assert role["kind"] == "Role"
    assert len(set(RIGHTS)) == len(RIGHTS)
    assert not any("*" in word for right in RIGHTS for word in right)
    assert not any("resourceNames" in rule or "nonResourceURLs" in rule for rule in role["rules"])
    assert {verb for _, resource, verb in RIGHTS if resource == "secrets"} == {"get", "create", "patch", "delete"}


@pytest.mark.fault(33)
async def test_33_an_ordinary_whole_life_is_never_forbidden_anything(rig: Rig, ground: KubernetesGround) -> None:
    await whole_life(rig)
    assert forbidden(ground) == []
    assert len(ground.cluster.audited(ground.namespace)) > 30


@pytest.mark.fault(33)
async def test_33_no_verb_is_surplus_and_each_is_missed_by_name(cluster: Cluster, node: Node, tmp_path: Path) -> None:
    turns, starts = asyncio.Semaphore(AT_ONCE), asyncio.Lock()

    async def without(number: int) -> str:
        async with turns:
            folder = tmp_path / str(number)
            folder.mkdir()
            ground = KubernetesGround(cluster, node, folder)
            await grant(ground, less(*RIGHTS[number]))
            rig = Rig(ground, folder, resync=2)
            # Alembic makes one database at a time in a process.
            async with starts:
                await rig.start()
            try:
                return await missed(rig, ground, 'cannot {2} resource "{1}"'.format(*RIGHTS[number]))
            finally:
                await rig.stop()

    found = await asyncio.gather(*(without(number) for number in range(len(RIGHTS))))
    assert [one for one in found if one] == []


def less(group: str, resource: str, verb: str) -> list[dict[str, list[str]]]:
    """The Role's rules without that right."""
    return [
        {"apiGroups": [of], "resources": [what], "verbs": [one]}
        for of, what, one in RIGHTS
        if (of, what, one) != (group, resource, verb)
    ]


async def grant(ground: KubernetesGround, rules: list[dict[str, list[str]]]) -> None:
    """Returns when exactly these are in force."""
    path = ground.path("roles", "sandbox-service", RBAC.strip("/"))
    await asyncio.to_thread(ground.cluster.request, "PATCH", path, {"rules": rules}, kind=MERGE)
    wanted = {
        (rule["apiGroups"][0], what, verb) for rule in rules for what in rule["resources"] for verb in rule["verbs"]
    }
    for group, resource, verb in RIGHTS:
        right = (group, resource, verb)
        await asyncio.to_thread(
            eventually, lambda r=right: may(ground.cluster, ground.namespace, r[2], r[1], r[0]) is (r in wanted)
        )


async def missed(rig: Rig, ground: KubernetesGround, words: str) -> str:
    """What is wrong with the Role, or with what is told, where a right is missing; empty if nothing is.

    `words` are the API server's for it. With all rights again, the life that stood still goes on.
    """
    life = asyncio.create_task(lives(rig, words))
    try:
        async with asyncio.timeout(60 * PATIENCE):
            while not (forbidden(ground, words) and said(rig, words)):
                await asyncio.sleep(0.1)
        await grant(ground, RULES)
        await life
    except (TimeoutError, AssertionError) as error:
        life.cancel()
        return (
            f"{words}: {error!r}, forbidden {len(forbidden(ground, words))} times, last told: {rig.history[-1].status}"
        )
    return ""


async def lives(rig: Rig, words: str) -> None:
    """One whole life after the other, until one stood still and said why: what is not missed at once has a while."""
    await whole_life(rig)
    while not said(rig, words):
        await whole_life(rig)


def said(rig: Rig, right: str) -> bool:
    """Whether the sandbox says so."""
    return any(one.status.reason is Reason.CLUSTER_FORBIDDEN and right in one.status.message for one in rig.history)
