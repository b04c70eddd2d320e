"""A store with what it has committed."""

from sandbox_server import store
from sandbox_server.domain.sandbox import Sandbox

KEY = b"k" * 32


class Opened:
    def __init__(self, url: str, cipher: store.Cipher | None = None) -> None:
        self.url = url
        self.committed: list[Sandbox] = []
        self.store = store.Store(url, cipher or store.Cipher([KEY]), busy_timeout=0.3)

    async def insert(self, sandbox: Sandbox, env: dict[str, str] | None = None) -> Sandbox:
        return await self.store.write(lambda _: store.Wanted(sandbox, env or {}))

    async def update(self, sandbox: Sandbox) -> Sandbox:
        return await self.store.write(lambda _: store.Wanted(sandbox))
