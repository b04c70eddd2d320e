"""The `sandboxctl` command."""

import enum
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_client import calls, errors, show
from sandbox_client.sync import Client
from sandbox_client.watch import Kind

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Sandboxes from the command line. Exit codes: 0 done, 1 failed, 2 bad usage or argument, 3 not found, "
    "4 timed out, 5 the service is not reached or refuses the token.",
)
env_app = typer.Typer(no_args_is_help=True, help="Environment variables. Their values are never printed.")
app.add_typer(env_app, name="env")

PATIENCE = 10.0
"""Seconds for a call: a service that restarts is back before; where none runs, a person wants to hear it soon."""

_EXIT_CODES: dict[type[Exception], int] = {
    errors.InvalidArgument: 2,
    errors.NotFound: 3,
    errors.TimedOut: 4,
    errors.Unavailable: 5,
    errors.Unauthenticated: 5,
}


class Output(enum.StrEnum):
    """How answers are printed."""

    TABLE = "table"
    JSON = "json"


class _Choice:
    """What the options before the command say."""

    def __init__(self) -> None:
        self.client: Client
        self.namespace = ""
        self.output = Output.TABLE


_choice = _Choice()

Id = Annotated[str, typer.Argument(help="the sandbox's id", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="wait until it is so, showing the way")]
Timeout = Annotated[float, typer.Option(help="seconds to wait")]


@app.callback()
def options(
    server: Annotated[str, typer.Option(envvar="SANDBOX_SERVER", help="address")] = "127.0.0.1:50051",
    token_file: Annotated[
        Path | None, typer.Option(envvar="SANDBOX_CLIENT_TOKEN_FILE", help="file with the token")
    ] = None,
    token: Annotated[
        str, typer.Option(envvar="SANDBOX_TOKEN", help="token; better in the environment or a file", show_default=False)
    ] = "",
    tls: Annotated[bool, typer.Option(envvar="SANDBOX_TLS", help="TLS with the system's authorities")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(envvar="SANDBOX_CA_FILE", help="TLS with the authorities of this PEM file")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", envvar="SANDBOX_NAMESPACE", help="default: the tenant's first")
    ] = "",
    output: Annotated[Output, typer.Option("--output", "-o", help="table or json")] = Output.TABLE,
) -> None:
    """Options that every command has."""
    given = token or (token_file.read_text().strip() if token_file else "")
    _choice.client = Client(server, token=given, tls=tls, ca_file=ca_file, timeout=PATIENCE)
    _choice.namespace = namespace
    _choice.output = output


@app.command()
def create(
    project: Annotated[str, typer.Option("--project", "-p", help="the project it belongs to", show_default=False)],
    sandbox_id: Annotated[str, typer.Option("--id", help="default: made from the project")] = "",
    image: Annotated[str, typer.Option(help="default: the service's")] = "",
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="NAME=value, or NAME to take this shell's")
    ] = None,
    env_file: Annotated[Path | None, typer.Option(help="file of NAME=value lines")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", help="key=value")] = None,
    port: Annotated[list[int] | None, typer.Option(help="port; the first one is the application's")] = None,
    cpu: Annotated[str, typer.Option(help="CPU at most, such as 2 or 500m")] = "",
    memory: Annotated[str, typer.Option(help="memory at most, such as 2Gi")] = "",
    storage: Annotated[str, typer.Option(help="size of the disk, such as 5Gi")] = "",
    ready_path: Annotated[str, typer.Option(help="HTTP path that must answer before it is RUNNING")] = "",
    adopt_volume: Annotated[bool, typer.Option(help="take up the disk that a deleted sandbox of this id left")] = False,
    wait: Wait = False,
    timeout: Timeout = 600,
    command: Annotated[list[str] | None, typer.Argument(help="the command, after --", show_default=False)] = None,
) -> None:
    """Create a sandbox."""
    spec = pb.SandboxSpec(
        image=image,
        command=command or [],
        labels=dict(_split(one, "label") for one in label or []),
        ports=[pb.Port(number=one) for one in port or []],
        resources=pb.Resources(cpu_limit=cpu, memory_limit=memory),
        storage=pb.Storage(size=storage),
        readiness=pb.Readiness(http_path=ready_path) if ready_path else None,
    )
    values = _values(env or [], env_file)
    made = _choice.client.create(
        project, sandbox_id=sandbox_id, namespace=_choice.namespace, env=values, spec=spec, adopt_volume=adopt_volume
    )
    _settled(made, "RUNNING", wait, timeout)


@app.command()
def start(
    sandbox_id: Id,
    accept_data_loss: Annotated[bool, typer.Option(help="where the disk was lost: begin on an empty one")] = False,
    wait: Wait = False,
    timeout: Timeout = 600,
) -> None:
    """Start a stopped sandbox."""
    wished = _choice.client.start(sandbox_id, namespace=_choice.namespace, accept_data_loss=accept_data_loss)
    _settled(wished, "RUNNING", wait, timeout)


@app.command()
def stop(sandbox_id: Id, wait: Wait = False, timeout: Timeout = 120) -> None:
    """Stop a sandbox; its disk stays."""
    _settled(_choice.client.stop(sandbox_id, namespace=_choice.namespace), "STOPPED", wait, timeout)


@app.command()
def delete(
    sandbox_id: Id,
    keep_volume: Annotated[bool, typer.Option(help="keep the disk for a later sandbox of this id")] = False,
    wait: Wait = False,
    timeout: Timeout = 120,
) -> None:
    """Delete a sandbox, and its disk unless that is kept."""
    wished = _choice.client.delete(sandbox_id, namespace=_choice.namespace, keep_volume=keep_volume)
    _settled(wished, "TERMINATED", wait, timeout)


@app.command()
def status(sandbox_id: Id) -> None:
    """Show a sandbox's status, and why it is so."""
    found = _choice.client.status(sandbox_id, namespace=_choice.namespace)
    show.as_json(found) if _choice.output is Output.JSON else show.status(found)


@app.command()
def get(sandbox_id: Id) -> None:
    """Print a sandbox with its spec as JSON."""
    show.as_json(_choice.client.get(sandbox_id, namespace=_choice.namespace))


@app.command("list")
def list_(
    project: Annotated[str, typer.Option("--project", "-p", help="those of this project")] = "",
    selector: Annotated[str, typer.Option("--selector", "-l", help="by label: a=b,c in (d,e),!f")] = "",
    phase: Annotated[list[str] | None, typer.Option(help="those in this phase; may be repeated")] = None,
) -> None:
    """List sandboxes."""
    try:
        phases = [calls.phase(one) for one in phase or []]
    except ValueError:
        raise typer.BadParameter("must be a phase such as RUNNING", param_hint="--phase") from None
    found = list(
        _choice.client.list(namespace=_choice.namespace, project=project, label_selector=selector, phases=phases)
    )
    if _choice.output is Output.JSON:
        show.as_json(pb.ListSandboxesResponse(sandboxes=found))
    else:
        show.sandboxes(found)


@app.command()
def watch(
    target: Annotated[
        str, typer.Argument(help="a sandbox's id, else a project; none: everything", show_default=False)
    ] = "",
    selector: Annotated[str, typer.Option("--selector", "-l", help="by label: a=b,c in (d,e),!f")] = "",
    after: Annotated[int | None, typer.Option(help="resume after this sequence")] = None,
) -> None:
    """Show status changes as they happen, until Ctrl-C, or the end of the one sandbox."""
    ids, project = _target(target)
    events = _choice.client.watch(
        ids, namespace=_choice.namespace, project=project, label_selector=selector, after_sequence=after
    )
    for event in events:
        if event.status is not None and _choice.output is Output.JSON:
            show.line(event.status)
        elif event.status is not None:
            show.change(event.status, event.sequence)
        elif event.kind is Kind.RESYNC:
            show.err.print("the history is gone: what follows is the present state again")


@app.command()
def version() -> None:
    """Print the version of this command."""
    show.out.print(importlib.metadata.version("sandbox-service"))


@env_app.command("set")
def env_set(
    sandbox_id: Id,
    values: Annotated[
        list[str] | None, typer.Argument(help="NAME=value, or NAME to take this shell's", show_default=False)
    ] = None,
    env_file: Annotated[Path | None, typer.Option(help="file of NAME=value lines")] = None,
    replace: Annotated[bool, typer.Option(help="remove all others")] = False,
    wait: Wait = False,
    timeout: Timeout = 600,
) -> None:
    """Set variables; a running sandbox restarts with them."""
    changed = _choice.client.update_env(
        sandbox_id, set=_values(values or [], env_file), replace=replace, namespace=_choice.namespace
    )
    _changed(changed, wait, timeout)


@env_app.command("unset")
def env_unset(
    sandbox_id: Id,
    names: Annotated[list[str], typer.Argument(help="the variables' names", show_default=False)],
    wait: Wait = False,
    timeout: Timeout = 600,
) -> None:
    """Remove variables; a running sandbox restarts without them."""
    changed = _choice.client.update_env(sandbox_id, unset=names, namespace=_choice.namespace)
    _changed(changed, wait, timeout)


@env_app.command("list")
def env_list(sandbox_id: Id) -> None:
    """Print the names of the variables."""
    for name in _choice.client.get(sandbox_id, namespace=_choice.namespace).env_names:
        show.out.print(escape(name))


def _changed(sandbox: pb.Sandbox, wait: bool, timeout: float) -> None:
    stopped = sandbox.desired_state == pb.DESIRED_STATE_STOPPED
    _settled(sandbox, "STOPPED" if stopped else "RUNNING", wait, timeout)


def _settled(sandbox: pb.Sandbox, phase: str, wait: bool, timeout: float) -> None:
    """Prints the sandbox, after waiting for the phase if asked to."""
    if wait:
        _choice.client.wait_until(
            sandbox.sandbox_id,
            phase,
            namespace=sandbox.namespace,
            generation=sandbox.status.generation,
            timeout=timeout,
            fail_on_error=True,
            progress=show.progress,
        )
        sandbox = _choice.client.get(sandbox.sandbox_id, namespace=sandbox.namespace)
    if _choice.output is Output.JSON:
        show.as_json(sandbox)
        return
    show.status(sandbox.status)


def _target(target: str) -> tuple[list[str], str]:
    """A sandbox if there is one of that id, else a project."""
    if not target:
        return [], ""
    try:
        _choice.client.status(target, namespace=_choice.namespace)
    except (errors.NotFound, errors.InvalidArgument):
        return [], target
    return [target], ""


def _values(words: list[str], file: Path | None) -> dict[str, str]:
    lines = file.read_text().splitlines() if file else []
    found = dict(_split(one, "env-file") for one in lines if one.strip() and not one.lstrip().startswith("#"))
    for word in words:
        if "=" not in word and word not in os.environ:
            raise typer.BadParameter(f"{word} is not in this shell's environment: give NAME=value")
        name, value = _split(word, "env") if "=" in word else (word, os.environ[word])
        found[name] = value
    return found


def _split(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter("must be NAME=value", param_hint=f"--{what}")
    return name, value


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command and exits with its code."""
    try:
        app(arguments)
    except errors.ServiceError as error:
        _explain(error)
        sys.exit(_EXIT_CODES.get(type(error), 1))
    except errors.SandboxFailed as error:
        show.err.print(f"[red]failed:[/red] {escape(str(error))}")
        sys.exit(1)
    except (OSError, ValueError) as error:
        show.err.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _explain(error: errors.ServiceError) -> None:
    summary = "these fields are wrong" if error.fields else error.message or error.code.name
    show.err.print(f"[red]error:[/red] {escape(summary)}")
    for field, description in error.fields.items():
        show.err.print(f"  {escape(field)} {escape(description)}")
    if isinstance(error, errors.Unavailable):
        show.err.print("  is the service running at that address? start one with `make run`, or give --server")
