"""Who holds the terminal of an exec: the last that attached to it. Noted in the sandbox, so that every replica knows."""

from sandbox_server import engines
from sandbox_server.access import conversation, scripts
from sandbox_server.access.execs import Place
from sandbox_server.access.sandboxes import Sandboxes
from sandbox_server.domain.pace import Pace

_HOLD = """
d=${SANDBOX_ACCESS:-/tmp/.sandbox-access}/$id
umask 077
[ -z "$holder" ] || { echo "$holder" >"$d/holder.new" && mv "$d/holder.new" "$d/holder"; }
holder=; IFS= read -r holder <"$d/holder"
echo "held $holder"
"""


class Holds:
    """Notes and tells the holders of terminals.

    Every method raises `errors.NotFound`, `errors.FailedPrecondition` if the sandbox does not run, and
    `errors.Unavailable`.
    """

    def __init__(self, found: Sandboxes, engine: engines.Access, pace: Pace) -> None:
        self._sandboxes = found
        self._engine = engine
        self._pace = pace

    async def take(self, place: Place, holder: str) -> None:
        """Makes `holder`, a word, the holder."""
        await self._ask(place, holder)

    async def has(self, place: Place, holder: str) -> bool:
        """Returns whether `holder` is the holder still."""
        return await self._ask(place, "") == [b"held", holder.encode()]

    async def _ask(self, place: Place, holder: str) -> list[bytes]:
        sandbox = await self._sandboxes.running(place.principal, place.key)
        script = scripts.sent(scripts.assigned(id=place.exec_id, holder=holder) + _HOLD)
        within = self._pace.access_within
        async with conversation.reached(self._engine, sandbox, place.incarnation, script, within) as lines:
            return await lines.line()
