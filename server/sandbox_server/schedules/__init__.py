"""Schedules of snapshots: what callers ask for, and what the holder of a namespace does at each slot."""
