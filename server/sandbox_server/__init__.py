"""The Sandbox Service: two arrows, each one way.

    wishes  caller -> rpc -> manager -> store -wake-> reconciler -> engine -> Kubernetes
    news    caller <- rpc <- manager <- feed <- store <- reconciler <- engine <- Kubernetes

The reconciler is the only place where the arrows meet, and `domain.lifecycle` is what it asks.

A module imports only modules to the right of its own in `__main__ -> commands -> app -> metrics -> rpc -> manager |
reconciler -> feed -> store | engines -> settings -> domain`; import-linter keeps it so.
"""

from importlib.metadata import version

VERSION = version("sandbox-service")
