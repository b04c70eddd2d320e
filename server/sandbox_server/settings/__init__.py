"""The settings: `Settings` is read from the environment and flags, and gives each part of the program its slice."""

from sandbox_server.settings.settings import CLIENTS, IMPORT, Adoption, Doctor, Import, Settings, load, unknown
from sandbox_server.settings.slices import Defaults, Kubernetes, Local

__all__ = [
    "CLIENTS",
    "IMPORT",
    "Adoption",
    "Defaults",
    "Doctor",
    "Import",
    "Kubernetes",
    "Local",
    "Settings",
    "load",
    "unknown",
]
