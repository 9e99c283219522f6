"""The governor: takes requests, places kernels on agents, watches what becomes of them."""
