"""The screen of `top`. It needs Textual, which is an extra: nothing else imports this module."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from rich.text import Text
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import errors, outage
from sandbox_client.watch import Event
from textual import app, binding, containers, events, widgets

from sandboxctl import advice, show
from sandboxctl.fleet import Fleet, Order, age, in_phase

_EVERY = 0.5
"""Seconds between two drawings. A fleet can change more often than a person can read."""
_NARROWEST = 16
_GAP = 2
_SCROLLBAR = 2

Watch = Callable[[Callable[[errors.ServiceError], None], Callable[[], None]], AsyncGenerator[Event, None]]
"""Opens the watch, with what to call when the service is lost and when it is back."""


class Top(app.App[None]):
    """A live view of a fleet by one watch."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #state { height: 1; }
    #chosen { height: auto; min-height: 2; max-height: 4; }
    #filter { display: none; height: 1; border: none; padding: 0; background: transparent; }
    #filter.shown { display: block; }
    DataTable { height: 1fr; background: transparent; scrollbar-size-horizontal: 0; }
    DataTable > .datatable--header { background: ansi_default; color: ansi_default; text-style: bold underline; }
    DataTable > .datatable--cursor, DataTable:focus > .datatable--cursor {
        background: ansi_default; color: ansi_default; text-style: reverse;
    }
    DataTable > .datatable--hover { background: ansi_default; }
    """
    BINDINGS: ClassVar[list[binding.BindingType]] = [
        ("q", "quit", "quit"),
        ("slash", "filter", "filter"),
        ("s", "sort", "sort"),
        ("r", "reverse", "reverse"),
        ("escape", "clear", "all"),
    ]

    def __init__(self, watch: Watch) -> None:
        # The colours of the terminal, light or dark.
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self.failure: errors.ServiceError | None = None
        self.fleet = Fleet()
        self._watch = watch
        self._lost_at: datetime | None = None
        self._order = Order.PHASE
        self._backwards = False
        self._words = ""
        self._shown: list[pb.SandboxStatus] = []

    def compose(self) -> app.ComposeResult:
        """Yields the parts of the screen, from the top."""
        yield widgets.Static(id="state")
        yield widgets.Input(id="filter", placeholder="filter: words of any column", compact=True)
        yield widgets.DataTable[Text](cursor_type="row", cell_padding=1)
        with containers.Vertical(id="chosen"):
            yield widgets.Static(id="detail")
        yield widgets.Footer(compact=True)

    def on_mount(self) -> None:
        """Starts the watch and the clock."""
        self.query_one(widgets.DataTable).focus()
        self.run_worker(self._follow(), exit_on_error=False)
        self.set_interval(_EVERY, self.draw)
        self.draw()

    async def _follow(self) -> None:
        """Takes in the events of the watch. Ends the screen if the watch cannot go on."""
        try:
            async with contextlib.aclosing(self._watch(self._lost, self._back)) as stream:
                async for event in stream:
                    self.fleet.take(event)
                    # Lets the screen answer keys while a large snapshot arrives.
                    await asyncio.sleep(0)
        except errors.ServiceError as error:
            self.failure = error
            self.exit()

    def _lost(self, _error: errors.ServiceError) -> None:
        self._lost_at = datetime.now(UTC) - timedelta(seconds=outage.SILENCE)

    def _back(self) -> None:
        self._lost_at = None

    def action_filter(self) -> None:
        """Asks for the words that the rows must have."""
        field = self.query_one("#filter", widgets.Input)
        field.add_class("shown")
        field.focus()

    def action_sort(self) -> None:
        """Sorts by the next column."""
        self._order = self._order.next()
        self.draw()

    def action_reverse(self) -> None:
        """Reverses the order."""
        self._backwards = not self._backwards
        self.draw()

    def action_clear(self) -> None:
        """Removes the filter."""
        field = self.query_one("#filter", widgets.Input)
        field.value = ""
        field.remove_class("shown")
        self.query_one(widgets.DataTable).focus()

    def on_input_changed(self, changed: widgets.Input.Changed) -> None:
        """Filters while the person types."""
        self._words = changed.value
        self.draw()

    def on_input_submitted(self, _submitted: widgets.Input.Submitted) -> None:
        """Goes back to the rows; the filter stays."""
        self.query_one(widgets.DataTable).focus()

    def on_resize(self, _event: events.Resize) -> None:
        """Fits the columns to the new width."""
        self.draw()

    def on_data_table_row_highlighted(self, _event: widgets.DataTable.RowHighlighted) -> None:
        """Shows the details of the chosen row."""
        if self._complete():
            self._draw_detail()

    def _complete(self) -> bool:
        """Returns whether all parts are there. Events arrive before they are, and while they are removed at the end."""
        return len(self.query("#state, DataTable, #detail")) == 3

    def draw(self) -> None:
        """Draws everything again; the chosen row stays chosen."""
        if not self._complete():
            return
        table = self.query_one(widgets.DataTable)
        chosen = self._chosen()
        now = datetime.now(UTC)
        self._shown = self.fleet.rows(self._words, self._order, self._backwards, now)
        scrolled = table.scroll_y
        with self.batch_update():
            table.clear(columns=True)
            widths = self._widths()
            for heading, width in widths:
                mark = ("^" if self._backwards else "v") if heading == self._order.value else ""
                table.add_column(Text(f"{heading}{mark}", "bold"), width=width)
            for one in self._shown:
                table.add_row(*self._cells(one, widths, now))
            names = [(one.namespace, one.sandbox_id) for one in self._shown]
            if chosen is not None and (chosen.namespace, chosen.sandbox_id) in names:
                table.move_cursor(row=names.index((chosen.namespace, chosen.sandbox_id)), scroll=False)
            table.scroll_to(y=scrolled, animate=False, force=True)
        self.query_one("#state", widgets.Static).update(self._state(now))
        self._draw_detail()

    def _widths(self) -> list[tuple[str, int]]:
        """Returns the columns that fit the screen: the id is as wide as the longest, if there is room for it."""
        phase = _widest([show.phase(one) for one in self._shown], "PHASEv")
        reason = _widest([show.reason(one.reason) for one in self._shown], "REASONv")
        others = [("PHASE", phase), ("REASON", reason), ("FOR", 4), ("AGE", 4), ("RST", 4)]
        left = self.size.width - _SCROLLBAR - sum(width + _GAP for _, width in others)
        # A quarter of the room is for the beginning of the message.
        room = left - max(12, left // 4) - 2 * _GAP
        name = max(_NARROWEST, min(_widest([self._label(one) for one in self._shown], "IDv"), room))
        message = left - name - 2 * _GAP
        return [("ID", name), *others, *([("MESSAGE", message)] if message >= 8 else [])]

    def _cells(self, one: pb.SandboxStatus, widths: list[tuple[str, int]], now: datetime) -> list[Text]:
        cells: dict[str, str | Text] = {
            "ID": self._label(one),
            "PHASE": show.coloured(show.phase(one)),
            "REASON": show.reason(one.reason),
            "FOR": _length(in_phase(one, now)),
            "AGE": _length(age(one, now)),
            "RST": str(one.restart_count),
            "MESSAGE": show.printable(one.message),
        }
        return [_fitted(cells[heading], width, heading == "ID") for heading, width in widths]

    def _label(self, one: pb.SandboxStatus) -> str:
        return f"{one.namespace}/{one.sandbox_id}" if self.fleet.namespaces > 1 else one.sandbox_id

    def _state(self, now: datetime) -> Text:
        """Returns the line at the top: whether the view is live, and how many sandboxes there are."""
        line = Text(no_wrap=True, overflow="ellipsis")
        if self._lost_at is not None:
            away = _length((now - self._lost_at).total_seconds())
            line.append(f" STALE: the service is not reached, for {away} ", "bold white on red")
        elif not self.fleet.synced:
            line.append(" reading ", "bold yellow")
        else:
            line.append(" live ", "bold green")
        line.append(f" {len(self._shown)} of {len(self.fleet)}")
        for name, count in self.fleet.counts().items():
            line.append("  ").append(show.coloured(name)).append(f" {count}")
        return line

    def _chosen(self) -> pb.SandboxStatus | None:
        row = self.query_one(widgets.DataTable).cursor_row
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def _draw_detail(self) -> None:
        """Shows the whole of what the chosen row cuts, and what to do."""
        one = self._chosen()
        said = Text("no sandbox matches" if self.fleet.synced else "")
        if one is not None:
            said = Text(f"{one.namespace}/{one.sandbox_id}: {show.printable(one.message)}\n")
            said.append(f"what to do: {advice.next_step(one)}", "bold")
        self.query_one("#detail", widgets.Static).update(said)


def _fitted(value: str | Text, width: int, middle: bool) -> Text:
    """Returns a cell that is no wider than its column. An id is cut in its middle: its end tells it from others."""
    text = value if isinstance(value, Text) else Text(value)
    if text.cell_len > width and middle:
        half = (width - 1) // 2
        text = Text(f"{text.plain[: width - 1 - half]}\u2026{text.plain[-half:]}")
    text.truncate(width, overflow="ellipsis")
    return text


def _widest(words: list[str], heading: str) -> int:
    return max(len(one) for one in (*words, heading))


def _length(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds) // size}{unit}"
    return f"{int(seconds)}s"
