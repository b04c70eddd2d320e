"""What a sandbox is, and the rules that decide its state. Standard library only; no I/O, no clock, no await."""
