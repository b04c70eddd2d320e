"""Tickets: what a browser shows to get into a terminal. A ticket is sealed, and nothing is remembered of it.

Any replica opens a ticket of another, with the keys for environments. That a first ticket counts once is ensured in the
sandbox: it names an exec that is not started twice, in an incarnation.
"""

import base64
from dataclasses import dataclass

from sandbox_server import store
from sandbox_server.access.execs import Place
from sandbox_server.domain.principal import Operator, Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import Tenant

_PURPOSE = "ticket of a terminal"
"""What a sealed ticket is bound to, where an environment is bound to the uid of a sandbox: no UUID."""


class Refused(Exception):
    """A terminal is refused, with words for who sits in front of it."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leads to one terminal, an exec in one incarnation of a sandbox, until `expires_at`, in seconds since 1970.

    `first`: it starts the terminal. Others lead back to a terminal that was started.
    """

    place: Place
    first: bool
    expires_at: float


class Tickets:
    """Seals and opens tickets."""

    def __init__(self, cipher: store.Cipher) -> None:
        self._cipher = cipher

    def seal(self, ticket: Ticket) -> str:
        """Returns the ticket as text that may be a WebSocket subprotocol."""
        place = ticket.place
        who = place.principal
        fields = {
            "kind": "operator" if isinstance(who, Operator) else "tenant",
            "name": who.name,
            "namespaces": ",".join(who.namespaces),
            "namespace": place.key.namespace,
            "sandbox": place.key.id,
            "exec": place.exec_id,
            "incarnation": place.incarnation,
            "first": "yes" if ticket.first else "",
            "expires_at": repr(ticket.expires_at),
        }
        return base64.urlsafe_b64encode(self._cipher.encrypt(fields, _PURPOSE)).rstrip(b"=").decode()

    def opened(self, sealed: str, now: float) -> Ticket:
        """Returns the ticket. Raises `Refused` for one that was not sealed here, or whose time is over."""
        try:
            data = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
            fields = self._cipher.decrypt(data, _PURPOSE)
        except ValueError:
            raise Refused("this ticket is not known: ask for another one") from None
        if now >= float(fields["expires_at"]):
            raise Refused("the time of this ticket is over: ask for another one")
        namespaces = tuple(fields["namespaces"].split(","))
        who: Principal = Tenant(fields["name"], namespaces)
        if fields["kind"] == "operator":
            who = Operator(fields["name"], namespaces, writes=True)
        place = Place(who, Key(fields["namespace"], fields["sandbox"]), fields["exec"], fields["incarnation"])
        return Ticket(place, fields["first"] != "", float(fields["expires_at"]))
