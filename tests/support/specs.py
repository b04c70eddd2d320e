"""Specs as callers send them."""

from sandbox.v1 import sandbox_pb2 as pb

SLEEP = pb.SandboxSpec(command=["/bin/sleep", "1000"])
"""A program that runs until it is ended."""
