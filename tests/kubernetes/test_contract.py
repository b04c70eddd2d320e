"""The contract suite on the real control plane, in a restricted namespace, under the service's own Role."""

from tests.contract.suite import *  # noqa: F403 - the tests themselves
