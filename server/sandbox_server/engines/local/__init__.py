"""The default engine. A sandbox is an isolated process group on this machine with its own home and loopback port."""

from sandbox_server.engines.local.engine import LocalEngine
from sandbox_server.engines.local.launch import describe

__all__ = ["LocalEngine", "describe"]
