"""Decide which pending session starts where: pure functions over a snapshot."""
