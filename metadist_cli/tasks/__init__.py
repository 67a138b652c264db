"""The tasks of meta-learning: sampling support and query rows, and augmenting them."""
