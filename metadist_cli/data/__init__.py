"""Data sets, the readers of files that they share, and the user's own task."""
