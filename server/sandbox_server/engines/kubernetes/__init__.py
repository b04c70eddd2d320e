"""Sandboxes as StatefulSets of a Kubernetes cluster."""

from sandbox_server.engines.kubernetes.discovery import discover
from sandbox_server.engines.kubernetes.engine import KubernetesEngine
from sandbox_server.engines.kubernetes.manifests import render
from sandbox_server.engines.kubernetes.preflight import check

__all__ = ["KubernetesEngine", "check", "discover", "render"]
