"""A store with what it has committed."""

from sandbox_server import store
from sandbox_server.domain.event import Event
from sandbox_server.domain.sandbox import Sandbox

from tests.support import samples

KEY = b"k" * 32


class Opened:
    def __init__(self, url: str, cipher: store.Cipher | None = None) -> None:
        self.url = url
        self.committed: list[Event] = []
        self.store = store.Store(url, cipher or store.Cipher([KEY]), busy_timeout=0.3)

    async def insert(self, sandbox: Sandbox, env: dict[str, str] | None = None) -> Event:
        return await self.store.write(lambda _: samples.new(sandbox, env))

    async def update(self, event: Event) -> Event:
        return await self.store.write(lambda _: samples.write(event))
