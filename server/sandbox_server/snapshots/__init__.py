"""Snapshots of the disks of sandboxes: what callers ask for and watch, and what the holder of a namespace does about it."""
