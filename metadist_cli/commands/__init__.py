"""The commands, one file each: each finds a finished result of exactly its inputs, or does the work."""
