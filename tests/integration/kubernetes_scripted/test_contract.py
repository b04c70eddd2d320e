"""The contract suite on the Kubernetes engine against the scripted API server."""

from tests.contract.suite import *  # noqa: F403 - the tests themselves
