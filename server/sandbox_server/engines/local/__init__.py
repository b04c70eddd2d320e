"""The embedded default: a sandbox is an isolated process group with its own home directory and loopback port."""

from sandbox_server.engines.local.engine import LocalEngine
from sandbox_server.engines.local.launch import describe

__all__ = ["LocalEngine", "describe"]
