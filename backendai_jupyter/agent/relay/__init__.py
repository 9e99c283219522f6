"""The process that forwards Jupyter's five channels between clients and kernels."""
