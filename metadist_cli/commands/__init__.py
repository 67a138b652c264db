"""The commands, one file each: each finds a committed result of exactly its inputs, or does the work."""
