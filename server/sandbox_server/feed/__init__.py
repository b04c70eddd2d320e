"""Hands the events of the log to watchers, and keeps the last event of each live sandbox in memory.

Two rules keep watchers whole: the store commits before it publishes, and a watcher subscribes before it reads. Nothing
is queued for a watcher: it has a cursor into what all watchers of the same filter share, and one that fell behind
reads the log from where it stands, so that a slow reader costs no memory and misses nothing.
"""

from sandbox_server.feed.feed import Feed
from sandbox_server.feed.topic import Encoded, Encoder, Filter, Send

__all__ = ["Encoded", "Encoder", "Feed", "Filter", "Send"]
