"""`sandboxctl context`: the services of the config file."""

import dataclasses
from typing import Annotated, Any

import typer
from rich.table import Table

from sandboxctl import answers, completion, contexts, show

app = typer.Typer(no_args_is_help=True, help="Services by name, from the config file.")

Name = Annotated[
    str, typer.Argument(help="the context's name", show_default=False, autocompletion=completion.context_names)
]


@app.command("list")
def list_() -> None:
    """List the contexts; * marks the current one."""
    config = contexts.load()
    plain = [{"name": name, "current": name == config.current, **_plain(one)} for name, one in config.contexts.items()]
    if answers.structured({"contexts": plain}):
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("", "NAME", "SERVER", "NAMESPACE"):
        table.add_column(heading, no_wrap=True)
    for name, one in config.contexts.items():
        table.add_row("*" if name == config.current else "", name, one.server, one.namespace or "-")
    show.out.print(table)
    if not config.contexts:
        show.err.print(f"there are no contexts: {config.path} has them")


@app.command()
def use(name: Name) -> None:
    """Make a context the current one."""
    contexts.use(name)
    if not answers.structured({"current": name}):
        show.out.print(f"the current context is {show.printable(name)}")


@app.command("show")
def show_(name: Name = "") -> None:
    """Show a context, by default the current one."""
    config = contexts.load()
    one = config.context(name)
    plain = {"name": name or config.current, **_plain(one)}
    if answers.structured(plain):
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in plain.items():
        table.add_row(key.replace("_", " "), show.printable(str(value or "-")))
    show.out.print(table)


def _plain(one: contexts.Context) -> dict[str, Any]:
    values = dataclasses.asdict(one)
    return {key: str(value) if key.endswith("_file") and value else value for key, value in values.items()}
