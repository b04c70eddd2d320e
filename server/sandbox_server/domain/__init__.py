"""What a sandbox is and what follows from what. Standard library only; no I/O, no clock, no await."""
