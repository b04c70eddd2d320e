"""The Sandbox Service: mutations flow to the cluster, and events flow back.

    mutations  caller -> rpc -> manager -> store -wake-> reconciler -> engine -> Kubernetes
    events     caller <- rpc <- manager <- feed <- store <- reconciler <- engine <- Kubernetes

Only the reconciler is in both directions. It asks `domain.lifecycle` what to do.

A module imports only modules to the right of its own in `__main__ -> commands -> app -> metrics -> rpc -> manager |
reconciler -> feed -> store | engines -> settings -> domain`; import-linter checks this.
"""

from importlib.metadata import version

VERSION = version("sandbox-service")
