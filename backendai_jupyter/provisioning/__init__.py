"""Jupyter's side of a kernel: the provisioner, and the backend it finds or starts."""
