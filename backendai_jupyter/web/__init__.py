"""HTTP: the REST API under ``/backendai/v1``, and what is added to Jupyter's own."""
