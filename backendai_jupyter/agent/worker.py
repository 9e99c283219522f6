"""Keep one kernel as its assignment says: one worker per kernel, never two."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from backendai_jupyter.agent.batch import how_it_ended, let_begin, steps_of
from backendai_jupyter.agent.checkpoints import Checkpoint
from backendai_jupyter.agent.images import STEP as IMAGE
from backendai_jupyter.agent.images import Images
from backendai_jupyter.agent.launch import (
    FIRST_STEP,
    Launch,
    Tools,
    dismantle,
    give_up,
    in_words,
    run_steps,
    until_abandoned,
)
from backendai_jupyter.agent.mounts import add_mount
from backendai_jupyter.agent.patience import patiently
from backendai_jupyter.agent.resume import clear_unfinished, find_checkpoint, reopen_channels
from backendai_jupyter.cluster.seal import Sealer
from backendai_jupyter.domain.exits import explain_failed_step, with_last_lines
from backendai_jupyter.domain.wire import (
    Assignment,
    Connection,
    Exit,
    Image,
    KernelReport,
    Phase,
    PullProgress,
)
from backendai_jupyter.errors import (
    BackendError,
    LaunchFailed,
    RelayFailed,
    RuntimeFailed,
)
from backendai_jupyter.points import reached
from backendai_jupyter.supervisor import race

log = logging.getLogger(__name__)

_REACHABLE = {Phase.RUNNING, Phase.EXITED}
_PHASE_OF_STEP = dict.fromkeys(("directories", "devices", "relay", "network"), Phase.PREPARING)


class KernelWorker:
    """Moves one kernel of this agent towards the assignment it was last told of.

    ``want`` and ``look`` only take note; ``run`` does the work, one thing at a time, and
    ends when the kernel is no longer assigned and nothing of it is left.
    """

    def __init__(
        self,
        kernel_id: str,
        tools: Tools,
        sealer: Sealer,
        *,
        images: Images,
        changed: Callable[[], None],
    ) -> None:
        self.kernel_id = kernel_id
        self._tools = tools
        self._sealer = sealer
        self._images = images
        self._changed = changed
        self._desired: Assignment | None = None
        self._launch: Launch | None = None
        self._generation = 0  # of the program that was last started; 0: not looked for yet
        self._signal_seq = 0  # of the last one that is, or is about to be, delivered
        self._delivered_seq = 0
        self._phase = Phase.PREPARING
        self._step = ""
        self._pull: PullProgress | None = None
        self._exit: Exit | None = None
        self._answered = False  # the program of this generation, once
        self._saved: Checkpoint | None = None
        self._sealed: tuple[Connection, str] | None = None
        self._failed = False  # the last piece of work, which is to be tried again
        self._wake = asyncio.Event()
        self._wake.set()

    def want(self, assignment: Assignment | None) -> None:
        """Take note of the assignment; None: the kernel must go."""
        if assignment == self._desired and assignment is not None and not self._failed:
            return
        self._desired = assignment
        if self._launch is not None:
            self._launch.abandoned = assignment is None
            self._launch.disturbed.set()
        self._wake.set()

    def look(self) -> None:
        """Take note that the kernel program may have ended."""
        if self._launch is not None:
            self._launch.disturbed.set()
        self._wake.set()

    def report(self) -> KernelReport:
        """Return what is known of the kernel now."""
        sealed = None
        launch = self._launch
        if self._phase in _REACHABLE and launch is not None and launch.endpoint is not None:
            sealed = self._seal(launch.connection)
        return KernelReport(
            kernel_id=self.kernel_id,
            generation=self._generation,
            phase=self._phase,
            step=self._step,
            exit=self._exit,
            connection=sealed,
            signal_seq=self._delivered_seq,
            pull=self._pull,
            progress=launch.progress if launch and self._phase is Phase.RUNNING else None,
        )

    @property
    def launch(self) -> Launch | None:
        """What runs, or is on its way up."""
        return self._launch

    def _seal(self, connection: Connection) -> str:
        """Seal it once: a report that says the same as before is the same text."""
        if self._sealed is None or self._sealed[0] != connection:
            self._sealed = (connection, self._sealer.seal(connection))
        return self._sealed[1]

    async def run(self) -> None:
        """Work until the kernel is gone."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            desired = self._desired
            if desired is None:
                if await self._removed():
                    return
                continue
            self._failed = False
            try:
                await self._approach(desired)
            except (BackendError, OSError) as error:
                # The agent's next full pass wakes this worker to try again.
                self._failed = True
                log.warning("kernel %s: %s", self.kernel_id, in_words(error))

    async def _approach(self, desired: Assignment) -> None:
        if self._generation == 0:
            await self._resume(desired)
        if desired.generation > self._generation:
            await self._start(desired)
        elif self._phase is Phase.RUNNING:
            await self._check(desired)

    async def reopen(self) -> None:
        """Give the kernel its channels again after the relay has died."""
        launch = self._launch
        if self._desired is None or launch is None or launch.assignment.batch is not None:
            return
        if launch.endpoint is None and self._phase not in _REACHABLE:
            return  # a start under way opens them by itself
        try:
            await reopen_channels(launch, self._tools)
            if launch.abandoned:  # meanwhile; they may have been closed just before
                await self._tools.relay.close_kernel(self.kernel_id)
                return
        except RelayFailed as error:
            log.error("kernel %s cannot be reached: %s", self.kernel_id, error)
        await self._save()

    async def _resume(self, desired: Assignment) -> None:
        """Go on where an agent that was killed stopped.

        A program that had answered is not asked again: while it works it would not answer.
        """
        found = await find_checkpoint(desired, self._tools, self._images.known(desired.image))
        await reached("agent.kernel.sought")
        if found is None:
            return
        launch = Launch(
            self.kernel_id, desired, image=found.image, key=found.key, endpoint=found.endpoint
        )
        self._launch = launch
        begun = found.answered or found.exit is not None
        if found.generation != desired.generation or not begun:
            await clear_unfinished(launch, self._tools)
            return  # the steps go on from where they were
        self._generation = found.generation
        self._signal_seq = self._delivered_seq = found.signal_seq
        self._exit, self._answered = found.exit, found.answered
        launch.disturbed.set()  # it may have ended in the meantime
        self._phase = Phase.EXITED if self._exit else Phase.RUNNING
        if self._exit is None:
            await self.reopen()
        self._changed()

    async def _start(self, desired: Assignment) -> None:
        self._generation = desired.generation
        # A signal that was asked for before this program started is not meant for it.
        self._signal_seq = self._delivered_seq = desired.signal.seq if desired.signal else 0
        launch = self._launch or Launch(self.kernel_id, desired)
        launch.assignment = desired
        launch.last_signal = launch.progress = None
        launch.disturbed.clear()
        launch.abandoned = self._desired is None  # since this was begun
        self._launch, self._exit, self._answered = launch, None, False
        self._tell(Phase.PREPARING)  # the last program's phase is not this one's
        try:
            await patiently(partial(self._attempt, launch, desired), launch, self._tools)
            self._answered = True
            await self._save()
            await reached("agent.start.saved")
        except LaunchFailed as error:
            await give_up(self.kernel_id, self._tools)
            log.info("kernel %s: step %s failed: %s", self.kernel_id, error.step, error)
            self._launch = None
            self._exit = explain_failed_step(
                error.step, str(error), error.log_tail, cause=error.cause
            )
            self._tell(Phase.FAILED, error.step)
        else:
            self._tell(Phase.RUNNING)
        self._wake.set()  # what came in the meantime is looked at now

    async def _attempt(self, launch: Launch, desired: Assignment) -> None:
        launch.image = await self._image(launch, desired)
        await run_steps(launch, self._tools, self._at_step, steps_of(desired))

    async def _check(self, desired: Assignment) -> None:
        launch = self._launch
        assert launch is not None
        await let_begin(desired, self._tools)
        if desired.signal is not None and desired.signal.seq != self._signal_seq:
            self._signal_seq = desired.signal.seq
            await self._save()  # before it is delivered: once at most
            await reached("agent.signal.saved")
            launch.last_signal = desired.signal.signum
            assert launch.image is not None
            runtime = self._tools.runtimes[launch.image.runtime]
            await runtime.signal(self.kernel_id, desired.signal.signum)
            self._delivered_seq = desired.signal.seq
            self._changed()
        if desired.mounts != launch.assignment.mounts:
            await self._show(launch, desired)
        if launch.disturbed.is_set():
            launch.disturbed.clear()
            ending = await how_it_ended(launch, self._tools)
            if ending is not None:
                await self._died(launch, ending)

    async def _show(self, launch: Launch, desired: Assignment) -> None:
        """Add the folders that have come; what cannot be added comes with the next program."""
        assert launch.image is not None
        known = {mount.target for mount in launch.assignment.mounts}
        launch.assignment = desired
        runtime = self._tools.runtimes[launch.image.runtime]
        for mount in desired.mounts:
            if mount.target in known:
                continue
            try:
                await add_mount(runtime, self._tools.node, self.kernel_id, mount)
            except RuntimeFailed as error:
                log.warning(
                    "kernel %s: no %s until a restart: %s", self.kernel_id, mount.target, error
                )

    async def _died(self, launch: Launch, ending: Exit) -> None:
        self._exit = ending
        await reached("agent.exit.seen")
        self._tell(Phase.EXITED)
        await self._save()
        asked = launch.last_signal is not None and ending.code == 128 + launch.last_signal
        if ending.code != 0 and not asked and launch.endpoint is not None:
            try:
                await self._tools.relay.notify(self.kernel_id, with_last_lines(ending), dead=True)
            except RelayFailed as error:
                log.warning("kernel %s: nobody could be told of its end: %s", self.kernel_id, error)

    async def _removed(self) -> bool:
        self._tell(Phase.STOPPING)
        try:
            await dismantle(self.kernel_id, self._tools)
        except (BackendError, OSError) as error:
            # The agent's next full pass wakes this worker to try again.
            problem = in_words(error)
            log.warning("kernel %s is not wholly removed yet: %s", self.kernel_id, problem)
            return False
        await reached("agent.kernel.removed")
        return self._desired is None

    async def _image(self, launch: Launch, desired: Assignment) -> Image:
        """Return what to start from; while that is fetched the report says how far it is."""

        def tell(progress: PullProgress) -> None:
            self._tell(Phase.PULLING, IMAGE, progress)

        is_first = desired.generation == 1
        last_runtime = launch.image.runtime if launch.image is not None else ""
        return await race(
            self._images.provide(
                desired.image, is_first=is_first, tell=tell, last_runtime=last_runtime
            ),
            until_abandoned(launch, IMAGE),
        )

    async def _at_step(self, step: str) -> None:
        self._tell(_PHASE_OF_STEP.get(step, Phase.CREATING), step)
        problem = await self._save() if step != FIRST_STEP else ""
        if problem:
            where = self._tools.node.scratch_root
            raise LaunchFailed(step, f"How far it has come cannot be written to {where}: {problem}")

    async def _save(self) -> str:
        """Write down what is certain now; return in words why that was impossible, if it was."""
        launch = self._launch
        if launch is None or launch.image is None:
            return ""
        checkpoint = Checkpoint(
            kernel_id=self.kernel_id,
            generation=self._generation,
            image=launch.image,
            key=launch.key,
            endpoint=launch.endpoint,
            answered=self._answered,
            signal_seq=self._signal_seq,
            exit=self._exit,
        )
        if checkpoint == self._saved:
            return ""
        try:
            await asyncio.to_thread(self._tools.node.checkpoints.write, checkpoint)
        except OSError as error:
            log.error("kernel %s: no checkpoint could be written: %s", self.kernel_id, error)
            return in_words(error)
        self._saved = checkpoint
        return ""

    def _tell(self, phase: Phase, step: str = "", pull: PullProgress | None = None) -> None:
        self._phase, self._step, self._pull = phase, step, pull
        self._changed()
