"""The accelerators of a node: which there are, who has them, and what a kernel sees of them."""
