"""The one thread that steps an engine: takes orders between steps, hands results over after each."""

import asyncio
import atexit
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Iterable

from alorakit.engine.errors import ClosedError, ConfigError, EngineBusyError, as_step_error
from alorakit.engine.loop import Loop
from alorakit.engine.request import StreamChunk
from alorakit.engine.scheduler import Scheduler
from alorakit.engine.sequence import Sequence, Status
from alorakit.engine.ticket import Ticket, settle

log = logging.getLogger("alorakit")

Event = tuple[Ticket, StreamChunk | None, bool]


class Stepper:
    """Owns the thread. Everything but ``_run`` and what it calls may be used from any thread."""

    def __init__(self, scheduler: Scheduler, loop: Loop, max_waiting: int) -> None:
        """Start the thread; at most ``max_waiting`` sequences may wait.

        Raises:
            ConfigError: Another stepper has the loop; one that is about to end is waited for.
        """
        if (other := loop.stepper) is not None and other.is_alive:
            if not other._stopping:
                raise ConfigError("another AsyncEngine serves this engine; share that one, or detach() it first")
            other.halt(wait=True)
        loop.stepper = self
        self._scheduler, self._loop, self._max_waiting = scheduler, loop, max_waiting
        self._tickets: dict[Sequence, Ticket] = {}
        # Guarded by the condition: what callers want, and who waits for the thread to be idle or to end.
        self._condition = threading.Condition()
        self._added: deque[Ticket] = deque()
        self._given_up: deque[Ticket] = deque()
        self._idle_waiters: list[asyncio.Future[None]] = []
        self._end_waiters: list[asyncio.Future[None]] = []
        self._draining = 0
        self._stopping: bool = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="alorakit-step", daemon=True)
        self._thread.start()
        # Python ends a daemon where it next takes the interpreter's lock; inside torch, that aborts the process.
        atexit.register(self._stop_at_exit)

    @property
    def is_alive(self) -> bool:
        """Whether the thread has not ended, in this process."""
        return self._thread.is_alive()

    @property
    def is_open(self) -> bool:
        """Whether the thread runs and shall go on."""
        return not self._stopping and self.is_alive

    def check_open(self) -> None:
        """ClosedError if the thread has ended or is about to."""
        if self._stopping:
            raise ClosedError("the engine is closed; make another with AsyncEngine.from_pretrained")

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket's sequences.

        Raises:
            EngineBusyError: Too many wait already, or a drain is going on.
            ClosedError: The thread was stopped.
        """
        with self._condition:
            self.check_open()
            if self._draining:
                raise EngineBusyError(
                    "the engine is draining and takes no requests; send it again when drain() is over"
                )
            waiting = len(self._scheduler.waiting) + sum(len(t.sequences) for t in self._added)
            if waiting + len(ticket.sequences) > self._max_waiting:
                raise EngineBusyError(
                    f"{waiting} sequences wait and {len(ticket.sequences)} more would exceed max_waiting="
                    f"{self._max_waiting}; try again later, or raise EngineConfig.max_waiting"
                )
            self._added.append(ticket)
            self._condition.notify()

    def give_up(self, ticket: Ticket) -> None:
        """End a ticket's sequences before the next step, if they have not ended."""
        if ticket.num_open == 0:
            return
        with self._condition:
            self._given_up.append(ticket)
            self._condition.notify()

    async def drain(self) -> None:
        """Wait until nothing runs or waits; meanwhile :meth:`submit` refuses."""
        waiter = asyncio.get_running_loop().create_future()
        with self._condition:
            if self._stopping:
                return
            self._draining += 1
            self._idle_waiters.append(waiter)
            self._condition.notify()
        try:
            await waiter
        finally:
            with self._condition:
                self._draining -= 1

    async def stop(self) -> None:
        """End every sequence, and the thread."""
        waiter = asyncio.get_running_loop().create_future()
        with self._condition:
            self._stopping = True
            if self._ended:  # the thread itself may live on for a moment, and resolves nothing any more
                waiter.set_result(None)
            else:
                self._end_waiters.append(waiter)
            self._condition.notify()
        await waiter
        self._thread.join()
        atexit.unregister(self._stop_at_exit)

    def _stop_at_exit(self) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    def halt(self, wait: bool) -> None:
        """End every sequence, and the thread; for callers outside of an event loop. ``wait``: until it has ended."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if wait:
            self._thread.join()

    @property
    def _busy(self) -> bool:
        """Whether there is a ticket's sequence to step; others may be stepped by whoever queued them."""
        return bool(self._tickets) and self._scheduler.has_work

    def _run(self) -> None:
        try:
            while self._take_orders():
                self._publish(self._loop.advance())
        except BaseException as exc:
            log.exception("the engine's thread failed")
            for sequence in self._tickets:
                sequence.error = sequence.error or as_step_error(exc)
        with self._condition:
            self._stopping = True
            tickets = dict.fromkeys((*self._tickets.values(), *self._added))
            self._added.clear()
        self._end(s for ticket in tickets for s in ticket.sequences)
        with self._condition:
            _resolve([*self._idle_waiters, *self._end_waiters])
            self._idle_waiters, self._end_waiters = [], []
            self._ended, self._loop.stepper = True, None

    def _take_orders(self) -> bool:
        """Wait until there is something to step; False when the thread shall end."""
        while True:
            with self._condition:
                while not (self._stopping or self._added or self._given_up or self._busy):
                    _resolve(self._idle_waiters)
                    self._idle_waiters = []
                    self._condition.wait()
                added, given_up = list(self._added), list(self._given_up)
                self._added.clear()
                self._given_up.clear()
                # Counted as waiting from here on, so that no burst slips through between the two queues.
                for ticket in added:
                    for sequence in ticket.sequences:
                        self._tickets[sequence] = ticket
                        self._scheduler.add(sequence)
                if self._stopping:
                    return False
            self._end(s for ticket in given_up for s in ticket.sequences)
            if self._busy:
                return True

    def _end(self, sequences: Iterable[Sequence]) -> None:
        ended = [s for s in sequences if s.status is not Status.FINISHED]
        for sequence in ended:
            if sequence in self._tickets:
                self._loop.abort(sequence)
        self._publish(ended)

    def _publish(self, sequences: Iterable[Sequence]) -> None:
        """Tell the waiting callers, once per event loop, what has become of their sequences."""
        events: defaultdict[asyncio.AbstractEventLoop, list[Event]] = defaultdict(list)
        for sequence in sequences:
            ticket = self._tickets.get(sequence)
            if ticket is None:
                continue
            if sequence.status is Status.FINISHED:
                del self._tickets[sequence]
                ticket.num_open -= 1
            chunk = sequence.next_chunk() if ticket.streams else None
            if chunk is not None or ticket.num_open == 0:
                events[ticket.event_loop].append((ticket, chunk, ticket.num_open == 0))
        for event_loop, batch in events.items():
            try:
                event_loop.call_soon_threadsafe(_deliver, batch)
            except RuntimeError:  # the event loop is closed: nobody waits any more
                self._end(s for ticket, _, _ in batch for s in ticket.sequences)


def _deliver(events: list[Event]) -> None:
    for ticket, chunk, done in events:
        ticket.deliver(chunk, done)


def _resolve(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        try:
            waiter.get_loop().call_soon_threadsafe(settle, waiter, None)
        except RuntimeError:  # the event loop is closed: nobody waits any more
            log.debug("an event loop was closed while the engine worked for it")
