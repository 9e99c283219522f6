"""Every route that this extension adds to the Jupyter Server."""

from __future__ import annotations

from backendai_jupyter.web import kernel_websocket, kernels, openapi, paths

routes = [*kernels.routes, *kernel_websocket.routes, *paths.routes, *openapi.routes]
