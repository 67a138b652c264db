"""The tasks of meta-learning: drawing support and query rows, and augmenting them."""
