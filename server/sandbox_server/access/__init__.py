"""What callers do in running sandboxes, built once on the primitive that each engine gives: commands and files."""
