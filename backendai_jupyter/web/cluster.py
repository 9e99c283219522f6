"""``/backendai/v1/agents``, ``images``, ``presets`` and ``me``: where sessions run, and whose."""

from __future__ import annotations

from jupyter_server.auth.decorator import authorized
from tornado import web

from backendai_jupyter.web.base import BackendHandler
from backendai_jupyter.web.image_models import ImageList
from backendai_jupyter.web.models import (
    Agent,
    AgentChange,
    AgentList,
    Me,
    PresetList,
    Wanted,
    me_of,
    presets_of,
)
from backendai_jupyter.web.operation import operation
from backendai_jupyter.web.queries import drain_agent, read_agent, read_agents, read_images


class AgentsHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=AgentList, query=Wanted)
    async def get(self, query: Wanted) -> AgentList:
        """List agents with what they have and what is left of it."""
        return await self.ask(read_agents(self.manager, query))


class AgentHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=Agent, query=Wanted)
    async def get(self, agent_id: str, query: Wanted) -> Agent:
        """Return one agent, with its accelerators and which kernels have them."""
        return await self.ask(read_agent(self.manager, agent_id, query))

    @web.authenticated
    @authorized
    @operation(returns=Agent, body=AgentChange)
    async def patch(self, agent_id: str, body: AgentChange) -> Agent:
        """Drain an agent, so that nothing new starts there, or let it take kernels again."""
        return await self.ask(drain_agent(self.manager, agent_id, is_drained=body.is_drained))


class ImagesHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=ImageList)
    async def get(self) -> ImageList:
        """List the images that kernels can start from."""
        return await self.ask(read_images(self.manager))


class PresetsHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=PresetList)
    async def get(self) -> PresetList:
        """List resource presets."""
        return presets_of(await self.ask(self.manager.presets.list()))


class MeHandler(BackendHandler):
    @web.authenticated
    @authorized
    @operation(returns=Me)
    async def get(self) -> Me:
        """Return who asks."""
        return me_of(self.manager.owner)


routes = [
    (r"/backendai/v1/agents", AgentsHandler),
    (r"/backendai/v1/agents/(?P<agent_id>[^/]+)", AgentHandler),
    (r"/backendai/v1/images", ImagesHandler),
    (r"/backendai/v1/presets", PresetsHandler),
    (r"/backendai/v1/me", MeHandler),
]
