"""`sandbox-server import`: takes over from the database of the former system to whom its sandboxes belong.

What it finds is stored for `adopt`, and becomes the labels of sandboxes that were adopted before.
"""

from sandbox_server.importing.run import run

__all__ = ["run"]
