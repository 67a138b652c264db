"""How well a model adapts to new tasks, and the metrics that say so."""
