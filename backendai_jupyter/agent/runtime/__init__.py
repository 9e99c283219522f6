"""How one node runs kernel programs: containers, or sandboxed processes."""
