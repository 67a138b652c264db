"""The commands, one file each: every one looks for a committed result of exactly its inputs, else does the work."""
