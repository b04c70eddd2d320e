"""The commands, without those of `env`."""

import importlib.metadata
from typing import Annotated

import typer
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import calls, errors
from sandbox_client.retry import PATIENCE

from sandboxctl import (
    answers,
    applying,
    capabilities,
    completion,
    context,
    copying,
    deletion,
    editing,
    execs,
    history,
    logs,
    options,
    ports,
    reading,
    schedules,
    settling,
    show,
    snapshots,
    targets,
    top,
    volumes,
)
from sandboxctl import env as variables
from sandboxctl.options import chosen
from sandboxctl.settling import Patience, Timeout, Wait, Waiting
from sandboxctl.targets import Ids, Selector, Tenant

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Sandboxes from the command line. Exit codes: 0 done, 1 failed, 2 bad usage or argument, 3 not found, "
    "4 timed out, 5 the service is not reached or refuses the token, 130 ended by Ctrl-C.",
)
app.callback()(options.declared)
app.add_typer(variables.app, name="env")
app.add_typer(editing.app, name="edit")
app.add_typer(context.app, name="context")
app.add_typer(snapshots.app, name="snapshot")
app.add_typer(schedules.app, name="schedule")


@app.command()
def create(
    project: Annotated[str, typer.Option("--project", "-p", help="the project it belongs to", show_default=False)],
    sandbox_id: Annotated[str, typer.Option("--id", help="default: made from the project")] = "",
    image: Annotated[str, typer.Option(help="default: the service's")] = "",
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="NAME=value, or NAME to take this shell's")
    ] = None,
    env_file: variables.File = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", help="key=value")] = None,
    port: Annotated[list[int] | None, typer.Option(help="port; the first one is the application's")] = None,
    cpu: Annotated[str, typer.Option(help="CPU at most, such as 2 or 500m")] = "",
    memory: Annotated[str, typer.Option(help="memory at most, such as 2Gi")] = "",
    storage: Annotated[str, typer.Option(help="size of the disk, such as 5Gi")] = "",
    ready_path: Annotated[str, typer.Option(help="HTTP path that must answer before it is RUNNING")] = "",
    adopt_volume: Annotated[bool, typer.Option(help="take up the disk that a deleted sandbox of this id left")] = False,
    snapshot: Annotated[
        str, typer.Option(help="make the disk from this snapshot", autocompletion=completion.snapshots)
    ] = "",
    wait: Wait = False,
    patience: Patience = PATIENCE,
    timeout: Timeout = 600,
    command: Annotated[list[str] | None, typer.Argument(help="the command, after --", show_default=False)] = None,
) -> None:
    """Create a sandbox."""
    spec = pb.SandboxSpec(
        image=image,
        command=command or [],
        labels=dict(variables.split(one, "label") for one in label or []),
        ports=[pb.Port(number=one) for one in port or []],
        resources=pb.Resources(cpu_limit=cpu, memory_limit=memory),
        storage=pb.Storage(size=storage),
        readiness=pb.Readiness(http_path=ready_path) if ready_path else None,
    )
    values = variables.read(env or [], env_file)
    created = chosen.client.create(
        project,
        sandbox_id=sandbox_id,
        namespace=chosen.namespace,
        env=values,
        spec=spec,
        adopt_volume=adopt_volume,
        snapshot_id=snapshot,
    )
    settling.settled(created, Waiting(wait, patience, timeout, "RUNNING"))


@app.command()
def start(
    sandbox_ids: Ids = None,
    selector: Selector = "",
    accept_data_loss: Annotated[bool, typer.Option(help="where the disk was lost: begin on an empty one")] = False,
    wait: Wait = False,
    patience: Patience = PATIENCE,
    timeout: Timeout = 600,
) -> None:
    """Start stopped sandboxes."""

    def act(namespace: str, sandbox_id: str) -> pb.Sandbox:
        return chosen.client.start(sandbox_id, namespace=namespace, accept_data_loss=accept_data_loss)

    settling.done(targets.of(sandbox_ids, selector), act, Waiting(wait, patience, timeout, "RUNNING"))


@app.command()
def stop(
    sandbox_ids: Ids = None,
    selector: Selector = "",
    wait: Wait = False,
    patience: Patience = PATIENCE,
    timeout: Timeout = 120,
) -> None:
    """Stop sandboxes; their disks stay."""

    def act(namespace: str, sandbox_id: str) -> pb.Sandbox:
        return chosen.client.stop(sandbox_id, namespace=namespace)

    settling.done(targets.of(sandbox_ids, selector), act, Waiting(wait, patience, timeout, "STOPPED"))


app.command()(deletion.delete)
app.command()(volumes.volumes)
app.command("delete-volume")(volumes.delete_volume)
app.command()(snapshots.clone)
app.command()(applying.apply)
app.command()(history.events)
app.command()(top.top)
app.command()(reading.wait)
app.command()(reading.status)
app.command()(reading.get)
app.command()(reading.describe)
app.command("open")(reading.open_)
app.command()(capabilities.capabilities)
app.command("exec")(execs.exec_)
app.command()(execs.shell)
app.command()(execs.execs)
app.command()(execs.attach)
app.command()(execs.signal)
app.command()(logs.logs)
app.command()(copying.cp)
app.command("port-forward")(ports.port_forward)


@app.command("list")
def list_(
    project: Annotated[str, typer.Option("--project", "-p", help="those of this project")] = "",
    selector: Annotated[str, typer.Option("--selector", "-l", help="by label: a=b,c in (d,e),!f")] = "",
    phase: Annotated[
        list[str] | None, typer.Option(help="those in this phase; may be repeated", autocompletion=completion.phases)
    ] = None,
    kept_volumes: Annotated[bool, typer.Option("--kept-volumes", help="deleted ones whose disk was kept")] = False,
    tenant: Tenant = "",
) -> None:
    """List sandboxes."""
    try:
        phases = [calls.phase(one) for one in phase or []]
    except ValueError:
        raise typer.BadParameter("must be a phase such as RUNNING", param_hint="--phase") from None
    found = list(
        chosen.client.list(
            namespace=chosen.namespace,
            project=project,
            label_selector=selector,
            phases=phases,
            volume_kept=kept_volumes,
            tenant=tenant,
            # The tables show nothing of the specs.
            basic=not chosen.structured,
        )
    )
    filtered = project or selector or phases or kept_volumes or tenant or chosen.namespace
    none = "no sandbox matches" if filtered else "there are no sandboxes: `sandboxctl create` makes one"
    answers.sandboxes(found, none)


@app.command()
def watch(
    target: Annotated[
        list[str] | None,
        typer.Argument(
            help="sandboxes' ids, or one project; none: everything",
            show_default=False,
            autocompletion=completion.ids_and_projects,
        ),
    ] = None,
    selector: Annotated[str, typer.Option("--selector", "-l", help="by label: a=b,c in (d,e),!f")] = "",
    after: Annotated[int | None, typer.Option(help="resume after this sequence")] = None,
    tenant: Tenant = "",
) -> None:
    """Show status changes as they happen, until Ctrl-C, or the end of the one sandbox."""
    namespace, ids, project = _target(target or [])
    events = chosen.client.watch(
        ids,
        namespace=namespace,
        project=project,
        label_selector=selector,
        after_sequence=after,
        tenant=tenant,
        lost=show.lost,
        back=show.back,
    )
    answers.changes(((event.kind, event.sequence, event.status) for event in events), show.change)


@app.command()
def version() -> None:
    """Print the version of this command."""
    number = importlib.metadata.version("sandbox-service")
    if not answers.structured({"version": number}):
        show.out.print(number)


def _target(words: list[str]) -> tuple[str, list[str], str]:
    """Returns the namespace, the ids and the project to watch: one word as an id if a sandbox has it, else as a project.

    Raises `Unavailable` if the service is not reached, and `typer.BadParameter` for ids of several namespaces.
    """
    names = [targets.named(one) for one in words]
    if len(names) != 1:
        namespaces = {namespace for namespace, _ in names} or {chosen.namespace}
        if len(namespaces) > 1:
            raise typer.BadParameter("a watch of several sandboxes is of one namespace")
        chosen.client.page(namespace=chosen.namespace, page_size=1)
        return namespaces.pop(), [sandbox_id for _, sandbox_id in names], ""
    ((namespace, sandbox_id),) = names
    try:
        chosen.client.status(sandbox_id, namespace=namespace)
    except (errors.NotFound, errors.InvalidArgument):
        project = words[0]
        show.err.print(f"no sandbox has the id {show.printable(project)}: watching the project of that name")
        return chosen.namespace, [], project
    return namespace, [sandbox_id], ""
