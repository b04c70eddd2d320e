"""Hands the events of the log to watchers, and keeps the last event of each live sandbox in memory.

Two rules keep watches complete: the store commits before it publishes, and a watch subscribes before it takes its
snapshot. Nothing is queued for a watcher. It has a cursor into what all watchers of the same filter share, and a watcher
that fell behind reads the log from there: a slow reader costs no memory and misses nothing.
"""

from sandbox_server.feed.feed import Feed
from sandbox_server.feed.snapshots import Snapshots
from sandbox_server.feed.topic import Encoded, Encoder, Filter, Send
from sandbox_server.feed.wait import until
from sandbox_server.feed.watch import Watch

__all__ = ["Encoded", "Encoder", "Feed", "Filter", "Send", "Snapshots", "Watch", "until"]
