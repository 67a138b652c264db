"""Everything in a run's folder: shards, checkpoints, adapted models."""
