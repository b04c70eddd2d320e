"""The adoption of sandboxes that a former system made."""

from sandbox_server.adoption.adopt import Adoption, Wanted

__all__ = ["Adoption", "Wanted"]
