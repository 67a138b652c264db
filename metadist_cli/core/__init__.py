"""What every room may use: trees of tensors, seeds, losses, optimisers, solvers, files, the console, errors."""
