"""The daemon that owns one node's containers."""
