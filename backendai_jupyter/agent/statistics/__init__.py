"""Measure what kernels and their node use."""
