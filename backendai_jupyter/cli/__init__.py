"""``jupyter backendai``: the same system for people who sit at a terminal."""
