"""`sandbox-server import` from a real PostgreSQL, against a scripted API server."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sandbox_server import adopting
from sandbox_server.domain import legacy
from sandbox_server.domain.event import Event
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.engines.kubernetes import manifests
from sandbox_server.importing.report import Line, Outcome, Report
from sandbox_server.settings import Adoption

from tests.support import former_objects, programs, samples
from tests.support.former_database import COLUMNS, Former
from tests.support.imported import DEPLOYMENTS, Ground
from tests.support.opened import Opened
from tests.support.ports import free_port
from tests.support.rig import A, Rig
from tests.support.samples import CANARY
from tests.support.scripted import PODS, SETS, until
from tests.support.scripted_api import ScriptedApi, forbidden
from tests.support.variants import BOTH_DATABASES

LABELS = {legacy.ID: "a", legacy.PROJECT: "clprojecta", legacy.OWNER: "cluserb"}


@pytest.fixture
def ground(api: ScriptedApi, tmp_path: Path, database_url: str) -> Ground:
    return Ground(api, tmp_path, database_url)


@pytest.fixture
def make_former(postgres: Callable[[], str]) -> Callable[..., Former]:
    return lambda *arguments, **named: Former(postgres(), *arguments, **named)


@pytest.fixture
def former(make_former: Callable[..., Former]) -> Former:
    return make_former()


def outcomes(report: Report) -> dict[str, Outcome]:
    return {one.id: one.outcome for one in report.lines}


def only(report: Report) -> Line:
    (line,) = report.lines
    return line


@BOTH_DATABASES
@pytest.mark.slow
async def test_what_the_cluster_cannot_tell_is_stored_and_a_repeat_changes_nothing(
    ground: Ground, former: Former
) -> None:
    ground.makes("one-x1")
    ground.makes("two-x2", collection=DEPLOYMENTS)
    former.add(
        "a", "one-x1", publicUrl="https://one.example.com/", ttydUrl=f"https://u:{CANARY}@t.example.com/?a={CANARY}"
    )
    former.add("b", "two-x2", projectId="clprojectc", status="STOPPED")
    report = await ground.run(former)
    assert outcomes(report) == {"a": Outcome.IMPORTED, "b": Outcome.IMPORTED}
    assert [one.kind for one in report.lines] == ["StatefulSet", "Deployment"]
    assert (report.complete, report.absent) == (True, [])
    assert ground.facts() == {
        "a": legacy.Fact(
            namespace="default",
            name="one-x1",
            legacy_id="a",
            title="the a",
            project="clprojecta",
            owner="cluserb",
            status="RUNNING",
            public_url="https://one.example.com/",
            ttyd_url="https://t.example.com/",
        ),
        "b": legacy.Fact(
            namespace="default",
            name="two-x2",
            legacy_id="b",
            title="the b",
            project="clprojectc",
            owner="cluserb",
            status="STOPPED",
        ),
    }
    again = await ground.run(former)
    assert outcomes(again) == {"a": Outcome.UNCHANGED, "b": Outcome.UNCHANGED}


@pytest.mark.slow
async def test_only_what_has_changed_is_stored_anew(ground: Ground, former: Former) -> None:
    ground.makes("one-x1", "two-x2")
    former.add("a", "one-x1")
    former.add("b", "two-x2")
    await ground.run(former)
    former.change("a", "projectId", "clother")
    assert outcomes(await ground.run(former)) == {"a": Outcome.UPDATED, "b": Outcome.UNCHANGED}
    assert ground.facts()["a"].project == "clother"


async def test_former_database_is_read_in_a_transaction_that_cannot_write(
    ground: Ground, postgres: Callable[[], str]
) -> None:
    url = postgres()
    with psycopg.connect(url, autocommit=True) as opened:
        opened.execute("CREATE TABLE seen (id text)")
        opened.execute("""
            CREATE FUNCTION told() RETURNS text LANGUAGE sql VOLATILE AS $$ INSERT INTO seen VALUES ('a') RETURNING id $$
        """)
        opened.execute("""
            CREATE VIEW "Sandbox" AS
            SELECT told() AS id, 'one-x1' AS "k8sDeploymentName", 'default' AS namespace, 'a' AS project
        """)
    with pytest.raises(OSError, match="cannot execute INSERT in a read-only transaction"):
        await ground.run(url)


async def test_cluster_is_only_read(ground: Ground, former: Former, api: ScriptedApi) -> None:
    ground.makes("one-x1")
    former.add("a", "one-x1")
    api.calls.clear()
    await ground.run(former)
    assert {method for method, _ in api.calls} == {"GET"}


async def test_table_that_may_only_be_read_is_enough(ground: Ground, former: Former) -> None:
    ground.makes("one-x1")
    former.add("a", "one-x1")
    with psycopg.connect(former.url, autocommit=True) as opened:
        opened.execute("CREATE ROLE reads LOGIN")
        opened.execute('GRANT SELECT ON "Sandbox" TO reads')
    try:
        assert outcomes(await ground.run(former.url.replace("//postgres:", "//reads:"))) == {"a": Outcome.IMPORTED}
    finally:
        with psycopg.connect(former.url, autocommit=True) as opened:
            opened.execute("DROP OWNED BY reads")
            opened.execute("DROP ROLE reads")


async def test_rows_that_say_nothing_certain_are_reported_and_not_stored(ground: Ground, former: Former) -> None:
    ground.makes("one-x1", "two-x2", "three-x3")
    former.add("gone", "gone-x0")
    former.add("null-name", None)
    former.add("null-namespace", "one-x1", k8sNamespace=None)
    former.add("null-both", "one-x1", projectId=None, userId=None)
    former.add("odd", "../secrets/a")
    former.add("twin-1", "two-x2")
    former.add("twin-2", "two-x2")
    former.add("elsewhere", "one-x1", k8sNamespace="others")
    former.add("half", "three-x3", projectId=None)
    report = await ground.run(former)
    told = {one.id: (one.outcome, one.message) for one in report.lines}
    assert told["gone"][0] is Outcome.ABSENT
    assert told["null-name"] == (Outcome.SKIPPED, "it has no name of a StatefulSet")
    assert told["null-namespace"] == (Outcome.SKIPPED, "it has no namespace")
    assert told["null-both"] == (Outcome.SKIPPED, "it has neither a project nor an owner")
    assert told["odd"][0] is Outcome.SKIPPED
    for one in ("twin-1", "twin-2"):
        assert told[one] == (Outcome.SKIPPED, "several rows name this object: twin-1, twin-2")
    assert told["elsewhere"][0] is Outcome.SKIPPED
    assert told["half"] == (Outcome.IMPORTED, "it has no project")
    assert ground.facts().keys() == {"half"}
    assert report.complete


async def test_dry_run_tells_the_same_and_writes_nothing(ground: Ground, former: Former) -> None:
    ground.makes("one-x1")
    former.add("a", "one-x1")
    assert outcomes(await ground.run(former, dry_run=True)) == {"a": Outcome.IMPORTED}
    assert ground.facts() == {}


async def test_dry_run_before_the_first_start_makes_nothing(ground: Ground, former: Former, tmp_path: Path) -> None:
    ground.makes("one-x1")
    former.add("a", "one-x1")
    report = await ground.run(former, dry_run=True, database_url="", data_dir=tmp_path / "data", encryption_keys="")
    assert outcomes(report) == {"a": Outcome.IMPORTED}
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
async def test_object_that_may_not_be_looked_for_is_reported_and_the_next_run_has_it(
    ground: Ground, former: Former, api: ScriptedApi
) -> None:
    ground.makes("one-x1")
    ground.makes("two-x2", collection=DEPLOYMENTS)
    former.add("a", "one-x1")
    former.add("b", "two-x2")

    async def refuse(_: object) -> Any:
        return forbidden("list", "deployments", "default")

    api.once(lambda request: "deployments" in request.path, refuse)
    report = await ground.run(former)
    assert outcomes(report) == {"a": Outcome.IMPORTED, "b": Outcome.NOT_CHECKED}
    assert not report.complete
    assert "let the user of the kubeconfig list deployments" in report.lines[1].message
    assert outcomes(await ground.run(former)) == {"a": Outcome.UNCHANGED, "b": Outcome.IMPORTED}


async def test_objects_are_found_on_every_page(ground: Ground, former: Former, api: ScriptedApi) -> None:
    api.page = 2
    ground.makes("w1", "w2", "w3", "w4", "w5")
    former.add("a", "w5")
    assert only(await ground.run(former)).outcome is Outcome.IMPORTED


async def test_cluster_that_does_not_answer_ends_the_import_before_it_writes(
    ground: Ground, former: Former, tmp_path: Path
) -> None:
    former.add("a", "one-x1")
    with pytest.raises(OSError, match="nothing was imported"):
        await ground.run(former, kubeconfig=samples.kubeconfig(tmp_path, free_port()))
    assert ground.facts() == {}


# --- the columns of releases


OLDER = {name: kind for name, kind in COLUMNS.items() if name not in ("userId", "ttydUrl", "publicUrl", "createdAt")}
RENAMED = {
    {"projectId": "project", "userId": "owner", "k8sNamespace": "namespace"}.get(name, name): kind
    for name, kind in COLUMNS.items()
}


async def test_columns_of_an_older_release_are_found_and_those_it_lacks_are_named(
    ground: Ground, make_former: Callable[..., Former]
) -> None:
    ground.makes("one-x1")
    older = make_former(OLDER)
    older.add("a", "one-x1")
    report = await ground.run(older)
    assert report.absent == ["userId or owner", "publicUrl", "ttydUrl"]
    assert (only(report).outcome, only(report).message) == (Outcome.IMPORTED, "it has no owner")
    assert (ground.facts()["a"].project, ground.facts()["a"].owner) == ("clprojecta", "")


async def test_columns_of_other_names_and_types_are_read(ground: Ground, make_former: Callable[..., Former]) -> None:
    ground.makes("one-x1")
    renamed = make_former(RENAMED | {"id": "integer PRIMARY KEY", "project": "uuid"})
    uuid = "2b1f0a3c-7c5e-4f0e-9d3c-0a8f6b7c5d4e"
    renamed.add("7", "one-x1", project=uuid, owner="cluserb", namespace="default")
    assert only(await ground.run(renamed)).outcome is Outcome.IMPORTED
    assert (ground.facts()["7"].project, ground.facts()["7"].owner) == (uuid, "cluserb")


@pytest.mark.parametrize(
    ("without", "named"),
    [
        (("k8sDeploymentName",), "k8sDeploymentName"),
        (("id", "k8sNamespace"), "id, and none k8sNamespace or namespace"),
        (("projectId", "userId"), "projectId or project or userId or owner"),
    ],
    ids=["name", "two", "both"],
)
async def test_table_without_what_is_needed_is_refused_by_the_names_of_its_columns(
    ground: Ground, make_former: Callable[..., Former], without: tuple[str, ...], named: str
) -> None:
    lacking = make_former({name: kind for name, kind in COLUMNS.items() if name not in without})
    with pytest.raises(ValueError, match=f'from: the table "public"."Sandbox" has no column {named}$'):
        await ground.run(lacking)


async def test_schema_of_the_url_is_used_as_prisma_does(ground: Ground, make_former: Callable[..., Former]) -> None:
    ground.makes("one-x1")
    first = make_former(schema="agents")
    first.add("a", "one-x1")
    assert only(await ground.run(f"{first.url}&schema=agents&connection_limit=5&pgbouncer=true")).id == "a"
    second = Former(first.url, schema="others")
    with pytest.raises(ValueError, match=r"several schemas have a table .* agents, others$"):
        await ground.run(second)
    with pytest.raises(ValueError, match=r'no table "Sandbox" in the schema public'):
        await ground.run(f"{first.url}&schema=public")


async def test_database_without_the_table_is_refused(ground: Ground, postgres: Callable[[], str]) -> None:
    with pytest.raises(ValueError, match=r'no table "Sandbox" in any schema'):
        await ground.run(postgres())


# --- with adoption


@pytest.mark.slow
async def test_sandbox_that_is_adopted_after_an_import_has_its_project_and_labels(
    ground: Ground, former: Former, api: ScriptedApi
) -> None:
    former_objects.put(api, former_objects.objects())
    former.add("a", former_objects.NAME)
    assert only(await ground.run(former)).kind == "StatefulSet"
    await adopting.run(Adoption(namespace="default", **ground.settings), lambda _: None)
    opened = Opened(ground.database_url)
    await opened.store.open(opened.committed.extend)
    try:
        _, (event,) = await opened.store.load()
    finally:
        await opened.store.close()
    assert (event.sandbox.spec.project, event.sandbox.spec.labels) == ("clprojecta", LABELS)
    again = only(await ground.run(former))
    assert (again.outcome, again.sandbox, again.labels) == (Outcome.UNCHANGED, former_objects.NAME, ())


# --- sandboxes that were adopted before


async def adopted(opened: Opened, **changes: Any) -> Event:
    """Leaves a sandbox whose StatefulSet the former system made."""
    return await opened.insert(samples.sandbox("one-x1", **changes))


@BOTH_DATABASES
@pytest.mark.slow
async def test_sandbox_that_was_adopted_before_gets_its_labels_once(ground: Ground, former: Former) -> None:
    ground.makes("one-x1")
    former.add("a", "one-x1")
    opened = Opened(ground.database_url)
    await opened.store.open(opened.committed.extend)
    try:
        made = await adopted(opened, spec=samples.spec(labels={"own": "kept"}))
        tried = await ground.run(former, dry_run=True)
        assert (only(tried).sandbox, only(tried).labels) == ("one-x1", tuple(sorted(LABELS)))
        assert await opened.store.read(lambda reader: reader.last(made.sandbox.key)) == made
        assert only(await ground.run(former)).labels == tuple(sorted(LABELS))
        last = await opened.store.read(lambda reader: reader.last(made.sandbox.key))
        assert last is not None
        assert last.sandbox.spec.labels == {"own": "kept", **LABELS}
        # The pod stays as it is: only labels have changed.
        assert (last.sandbox.generation, last.sandbox.pod_generation) == (2, 1)
        assert (last.cause.actor, last.cause.method) == ("sandbox-server import", "import")
        again = only(await ground.run(former))
        assert (again.outcome, again.sandbox, again.labels) == (Outcome.UNCHANGED, "one-x1", ())
        assert await opened.store.read(lambda reader: reader.last(made.sandbox.key)) == last
        former.change("a", "userId", "cluserc")
        assert only(await ground.run(former)).labels == (legacy.OWNER,)
    finally:
        await opened.store.close()


async def test_sandbox_that_was_deleted_and_texts_that_no_label_can_have_are_left_alone(
    ground: Ground, former: Former
) -> None:
    ground.makes("one-x1", "two-x2")
    former.add("a", "one-x1")
    former.add("b", "two-x2", userId="someone@example.com")
    opened = Opened(ground.database_url)
    await opened.store.open(opened.committed.extend)
    try:
        made = await adopted(opened, desired=DesiredState.DELETED)
        other = await opened.insert(samples.sandbox("two-x2"))
        report = await ground.run(former)
        assert [one.labels for one in report.lines] == [(), (legacy.ID, legacy.PROJECT)]
        assert report.lines[1].message == f"no label can have its text: {legacy.OWNER}"
        assert await opened.store.read(lambda reader: reader.last(made.sandbox.key)) == made
        last = await opened.store.read(lambda reader: reader.last(other.sandbox.key))
        assert last is not None
        assert last.sandbox.spec.labels == {legacy.ID: "b", legacy.PROJECT: "clprojecta"}
    finally:
        await opened.store.close()
    assert ground.facts()["b"].owner == "someone@example.com"


async def test_sandbox_with_too_many_labels_is_reported_and_the_others_get_theirs(
    ground: Ground, former: Former
) -> None:
    ground.makes("one-x1", "two-x2")
    former.add("a", "one-x1")
    former.add("b", "two-x2")
    opened = Opened(ground.database_url)
    await opened.store.open(opened.committed.extend)
    try:
        await adopted(opened, spec=samples.spec(labels={f"l{number}": "" for number in range(63)}))
        await opened.insert(samples.sandbox("two-x2"))
        first, second = (await ground.run(former)).lines
    finally:
        await opened.store.close()
    assert (first.labels, first.message) == ((), "spec.labels: must have at most 64 entries")
    assert len(second.labels) == 3


@pytest.mark.slow
async def test_running_service_has_the_labels_soon_and_restarts_no_pod(
    rig: Rig, former: Former, api: ScriptedApi, tmp_path: Path
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    (pod,) = api.objects[PODS].values()
    former.add("a", A)
    ground = Ground(api, tmp_path, f"sqlite:///{tmp_path}/rig.db")
    assert only(await ground.run(former)).labels == tuple(sorted(LABELS))
    sandbox = await rig.until(A, lambda one: one.generation == 2)
    await until(lambda: api.objects[SETS][A]["metadata"]["annotations"][manifests.GENERATION] == "2")
    assert sandbox.spec.labels == LABELS
    assert [one["metadata"]["uid"] for one in api.objects[PODS].values()] == [pod["metadata"]["uid"]]
    assert LABELS.keys().isdisjoint(api.objects[SETS][A]["metadata"]["labels"])


# --- the command


@pytest.mark.slow
async def test_command_prints_a_table_or_json(ground: Ground, former: Former) -> None:
    ground.makes("one-x1")
    former.add("a", "one-x1")
    former.add("b\x1b[31m", "gone-x0")
    done = await asyncio.to_thread(programs.run, "sandbox-server", *ground.words(former, "--output=json"))
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["dry_run"], told["absent_columns"]) == (False, [])
    assert [one["outcome"] for one in told["rows"]] == ["imported", "absent"]
    absent = "neither a StatefulSet nor a Deployment has this name: there is nothing to adopt"
    done = await asyncio.to_thread(programs.run, "sandbox-server", *ground.words(former, "--dry-run"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        r"unchanged    a          StatefulSet default/one-x1",
        rf"absent       b\x1b[31m  object default/gone-x0; {absent}",
        "",
        "2 rows: 1 unchanged, 1 absent",
        "a dry run: nothing was written",
    ]


@pytest.mark.slow
async def test_url_can_be_given_where_no_other_user_sees_it(ground: Ground, former: Former) -> None:
    ground.makes("one-x1")
    former.add("a", "one-x1")
    words = [one for one in ground.words(former) if not one.startswith("--from=")]
    env = os.environ | {"SANDBOX_FROM": former.url}
    done = await asyncio.to_thread(programs.run, "sandbox-server", *words, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "1 rows: 1 imported"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            f"postgresql://user:{CANARY}@127.0.0.1:PORT/name?sslpassword={CANARY}",
            "from: postgresql+psycopg://user:***@",
        ),
        (f"mysql://user:{CANARY}@127.0.0.1/name", "from: must be postgresql://"),
        (f"postgresql://user:{CANARY}@127.0.0.1:{CANARY}/name", "from: must be postgresql://"),
        ("", "from: must be postgresql://"),
    ],
    ids=["away", "kind", "port", "none"],
)
async def test_database_that_cannot_be_read_is_said_without_its_password(ground: Ground, url: str, said: str) -> None:
    with pytest.raises((ValueError, OSError)) as raised:
        await ground.run(url.replace("PORT", str(free_port())))
    assert str(raised.value).startswith(said)
    assert CANARY not in str(raised.value)


async def test_local_engine_is_refused(ground: Ground, former: Former) -> None:
    with pytest.raises(ValueError, match="engine: "):
        await ground.run(former, engine="local")
