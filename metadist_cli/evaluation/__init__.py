"""Evaluation on new tasks: adapt, predict, and score."""
