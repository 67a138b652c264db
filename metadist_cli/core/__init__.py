"""What every room may use: trees of tensors, seeds, losses, optimizers, solvers, files, the console, errors."""
