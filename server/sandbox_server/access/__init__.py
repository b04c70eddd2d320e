"""Execs: commands that callers start in running sandboxes, built once on the primitive that each engine gives."""
