"""Which node gets which rows, which are held out, and how unlike the nodes become."""
