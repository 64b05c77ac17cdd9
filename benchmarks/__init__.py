"""ntklib and its peers side by side: one command, every implementation in a process of its own, in turns."""
