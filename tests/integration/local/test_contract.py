"""The contract suite on the local engine, with and without bubblewrap."""

from tests.contract.suite import *  # noqa: F403 - the tests themselves
