"""Which process dies at which step: every combination once, in an order that a seed decides."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

STEPS = (
    "manager.assignment.written",
    "agent.step.directories",
    "agent.step.devices",
    "agent.step.relay",
    "agent.done.relay",
    "agent.step.network",
    "agent.done.network",
    "agent.step.container",
    "agent.keeper.directory",
    "agent.keeper.spawned",
    "agent.container.created",
    "agent.done.container",
    "agent.step.answer",
    "agent.done.answer",
    "agent.start.saved",
    "manager.move.running",
    "manager.moved.running",
)
# What is done to a kernel, and the points that this passes.
POINTS: Mapping[str, Sequence[str]] = {
    "start": (
        "manager.session.written",
        "manager.session.claimed",
        "manager.move.preparing",
        "manager.moved.creating",
        *STEPS,
    ),
    "restart": ("manager.generation.raised", *STEPS),
    "shutdown": (
        "manager.terminating.written",
        "manager.assignment.deleted",
        "agent.undo.answer",
        "agent.undo.container",
        "agent.undo.network",
        "agent.undo.relay",
        "agent.undo.devices",
        "agent.undo.directories",
        "agent.kernel.removed",
        "manager.move.terminated",
        "manager.moved.terminated",
    ),
    "interrupt": ("manager.signal.written", "agent.signal.saved"),
    "death": ("agent.exit.seen", "manager.move.restarting", "manager.moved.restarting"),
    "stop": ("agent.relay.leave", "server.instance.leave"),
    "recovery": ("server.instance.opened", "server.kernels.assigned", "agent.kernel.sought"),
}
WITH_PROGRAM = STEPS.index("agent.keeper.spawned")  # from here on a start has one to be killed
PROGRAM = ("kernel", "keeper")  # by whose death a kernel's program dies
VICTIMS: Mapping[str, Sequence[str]] = {
    "process": ("server", "relay", "kernel", "keeper"),
    "docker": ("server", "relay", "kernel", "dockerd"),
}
DOCKER_ONLY = ("agent.container.created",)
PROCESS_ONLY = ("agent.keeper.directory", "agent.keeper.spawned")
ACTIONS = ("kill", "stop")
SECOND_VICTIM = 0.25  # how often there is one
KILLED_AGAIN = 0.3  # how often a server that comes back is killed while at it
SHORTEST_S, LONGEST_S = 0.1, 2.0  # longer than a silent agent counts as alive


@dataclass(frozen=True, slots=True)
class Blow:
    """What happens to one process; ``hold`` delays only the one that has come to the point."""

    victim: str
    action: str  # kill, stop, hold
    seconds: float

    def __str__(self) -> str:
        return self.action if self.action == "hold" else f"{self.action}-{self.victim}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One interleaving; ``again`` is the point of its next start where a server dies again."""

    number: int
    operation: str
    point: str
    blows: tuple[Blow, ...]
    again: str

    def __str__(self) -> str:
        blows = "-".join(str(blow) for blow in self.blows)
        return f"{self.number}-{self.operation}-{self.point}-{blows}"

    def hits(self, *victims: str, by: str) -> bool:
        return any(blow.victim in victims and blow.action == by for blow in self.blows)

    @property
    def only_delays(self) -> bool:
        return all(blow.action != "kill" for blow in self.blows)


def plans(
    count: int, seed: int, *, runtime: str = "process", without: Sequence[str] = ()
) -> list[Plan]:
    """Return ``count`` interleavings, the same ones for the same seed.

    Operations, points and victims that are named in ``without`` do not occur.
    """
    chance = random.Random(seed)
    return list(itertools.islice(_endless(chance, runtime, without), count))


def _endless(chance: random.Random, runtime: str, without: Sequence[str]) -> Iterator[Plan]:
    numbers = itertools.count()
    passed = [
        (operation, point, _blows_at(operation, point, runtime))
        for operation, points in POINTS.items()
        for point in points
        if operation not in without
        and point not in (PROCESS_ONLY if runtime == "docker" else DOCKER_ONLY)
    ]
    while True:
        every = [(o, p, blows, blow) for o, p, blows in passed for blow in blows]
        chance.shuffle(every)
        for operation, point, possible, first in every:
            chosen = [first]
            if chance.random() < SECOND_VICTIM:
                chosen.append(chance.choice([blow for blow in possible if blow[0] != first[0]]))
            blows = [Blow(v, a, chance.uniform(SHORTEST_S, LONGEST_S)) for v, a in chosen]
            killed_again = chance.random() < KILLED_AGAIN and "recovery" not in without
            again = chance.choice(POINTS["recovery"]) if killed_again else ""
            yield Plan(next(numbers), operation, point, tuple(blows), again)


def _blows_at(operation: str, point: str, runtime: str) -> list[tuple[str, str]]:
    is_early = operation == "start" and point not in STEPS[WITH_PROGRAM:]
    return [
        ("server", "hold"),
        *(
            (victim, action)
            for victim, action in itertools.product(VICTIMS[runtime], ACTIONS)
            if not (is_early and victim in PROGRAM)
        ),
    ]
