"""Every route that this extension adds to the Jupyter Server."""

from __future__ import annotations

from backendai_jupyter.web import kernels, openapi, paths

routes = [*kernels.routes, *paths.routes, *openapi.routes]
