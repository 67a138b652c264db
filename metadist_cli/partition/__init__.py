"""Partition a data set: which node gets which rows, which are held out, and how heterogeneous the nodes are."""
