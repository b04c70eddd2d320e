"""The sandboxes that a command is about: by their ids, or by a label selector."""

from dataclasses import dataclass
from typing import Annotated

import typer

from sandboxctl import completion
from sandboxctl.options import chosen

Ids = Annotated[
    list[str] | None,
    typer.Argument(
        help="ids, or namespace/id", show_default=False, metavar="[SANDBOX_ID]...", autocompletion=completion.ids
    ),
]
Id = Annotated[str, typer.Argument(help="id, or namespace/id", metavar="SANDBOX_ID", autocompletion=completion.ids)]
Selector = Annotated[
    str,
    typer.Option("--selector", "-l", help="instead of ids, what `list` shows with this selector: a=b,c in (d,e),!f"),
]

Tenant = Annotated[str, typer.Option("--tenant", help="those of this tenant, for operators, who see all")]


@dataclass(frozen=True, slots=True)
class Targets:
    """Namespaces and ids. `single` if the command names one sandbox, so that its answer is not a list."""

    names: list[tuple[str, str]]
    single: bool
    none: str
    """What to say where there are none."""


def of(ids: list[str] | None, selector: str, nothing: str = "nothing was done") -> Targets:
    """Returns what the arguments name; `nothing` is said where nothing came of it.

    Raises `typer.BadParameter` unless there are either ids or a selector.
    """
    if _selected(ids, selector):
        found = chosen.client.list(namespace=chosen.namespace, label_selector=selector, basic=True)
        return Targets([(one.namespace, one.sandbox_id) for one in found], False, "no sandbox matches")
    return _named(ids, nothing)


def of_volumes(ids: list[str] | None, selector: str, nothing: str) -> Targets:
    """Returns the deleted sandboxes whose kept disks the arguments name. Raises as `of`."""
    if _selected(ids, selector):
        found = chosen.client.volumes(namespace=chosen.namespace, label_selector=selector)
        return Targets([(one.namespace, one.sandbox_id) for one in found], False, "no kept disk matches")
    return _named(ids, nothing)


def _selected(ids: list[str] | None, selector: str) -> bool:
    """Returns whether a selector is given instead of ids. Raises `typer.BadParameter` unless there is one of the two."""
    selected = bool(selector.strip())
    if bool(ids) == selected:
        raise typer.BadParameter("give the ids of sandboxes or --selector: one of the two")
    return selected


def _named(ids: list[str] | None, nothing: str) -> Targets:
    names = [named(one) for one in dict.fromkeys(ids or [])]
    return Targets(names, len(names) == 1, nothing)


def named(text: str) -> tuple[str, str]:
    """Returns the namespace and the id of `id` or `namespace/id`."""
    namespace, slash, sandbox_id = text.rpartition("/")
    return (namespace, sandbox_id) if slash else (chosen.namespace, text)
