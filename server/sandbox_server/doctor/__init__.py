"""Checks what the service needs, beside a service that runs or before there is one. Writes nothing and takes no lock."""

from sandbox_server.doctor.examine import examine

__all__ = ["examine"]
