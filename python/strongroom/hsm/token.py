"""One token in this process: one login, shared and counted by all that use it, and its sessions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from strongroom import _events, _native
from strongroom.errors import HSMError
from strongroom.hsm import codes, pins
from strongroom.hsm.choice import Choice
from strongroom.hsm.codes import Fault, hsm_error
from strongroom.hsm.lane import Lane
from strongroom.hsm.module import Module, busy

if TYPE_CHECKING:
    from strongroom.hsm.binding import Slot
    from strongroom.hsm.pins import PinSource

__all__ = ["Token", "open_token"]

T = TypeVar("T")

_generation = _native.process_generation

# Sessions of a token whose module is thread-safe. More than the cores of most machines; few enough
# for devices that have sixteen.
POOL = 8
# As long as a token is looked for that is not there.
LOOK_SECONDS = 0.4


class Token:
    """A token that is logged in. `open_token` makes one; each `close` undoes one of those.

    Attributes:
        module: Its module.
        label: Its label.
        serial: Its serial number.
        name: What it is called in messages.
    """

    def __init__(self, module: Module, slot: Slot) -> None:
        """Take the slot as it was found; nothing is opened."""
        self.module = module
        self.label = slot.label
        self.serial = slot.serial
        self.name = f"token {slot.label!r}"
        self.users = 0
        self._slot: Slot | None = slot
        self._slot_epoch = self._now()
        self._pin: pins.HeldPin | None = None
        self._source: Callable[[], str | bytes | bytearray] | None = None
        # The session that logged in; in the ordinary case the first lane's, and the only one.
        self._session: Any = None
        self._session_epoch: tuple[int, int] | None = None
        self._logged_in = False
        self._epoch = 0
        self._read_only = False
        self._lane = Lane(module.lock)
        self._aside = Lane(module.lock)
        self._pool: list[Lane] = []
        self._idle: list[Lane] = []
        self._changed = threading.Condition(threading.Lock())

    @property
    def identity(self) -> tuple[str, str]:
        """What finds it again: the number of its slot may change."""
        return self.serial, self.label

    @property
    def slot(self) -> Slot:
        """The slot that the token is in. The module's lock is held.

        Raises:
            Fault: It is not there any more.
        """
        return self._find_slot()

    # --- Login. The module's lock is held in all of this. -------------------------------------

    def join(self, pin: PinSource) -> None:
        """Log in for one more user, or look that its PIN is the one that did.

        Raises:
            HSMError: The PIN was refused, or is not that of the login that stands.
            Fault: The module failed.
        """
        given = None if pin is None else pins.pin_bytes(pin() if callable(pin) else pin)
        try:
            if self.users and self._pin is not None and self._pin.here:
                # The token does not look at the PIN of a second login.
                if given is None or not self._pin.equals(given):
                    raise HSMError(
                        f"{self.name} is open in this process already, by another PIN than this one"
                    )
            elif not self.alive():
                self._pin = None  # One of a parent, if any.
                self._log_in(given)
        finally:
            if given is not None:
                pins.wipe(given)
        self.users += 1
        if self._source is None and callable(pin):
            self._source = pin

    def leave(self) -> None:
        """Undo one `join`; the last one closes the sessions and forgets the PIN."""
        self.users -= 1
        if self.users > 0:
            return
        self._drop()
        self._forget_pool()
        if self._pin is not None:
            self._pin.close()
            self._pin = None
        self.module.tokens.pop(self.identity, None)
        _events.report("hsm.session.closed", token=self.label)

    def alive(self) -> bool:
        """Whether the login stands, in this process."""
        return self._session is not None and self._session_epoch == self._now()

    def _now(self) -> tuple[int, int]:
        return self.module.epoch, _generation()

    def _log_in(self, given: bytearray | None = None) -> None:
        """Open the session that is logged in.

        Raises:
            HSMError: There is no PIN to be had, or it was refused.
            Fault: The module failed.
        """
        slot = self._find_slot()
        if not slot.initialized:
            raise HSMError(
                f"the token in slot {slot.slot_id} is not initialised: "
                "initialise it with its vendor's tool"
            )
        held = self._held_pin(self._pin) if given is None and self._pin is not None else None
        try:
            self._log_in_with(slot, held or given)
        finally:
            if held is not None:
                pins.wipe(held)

    def _held_pin(self, held: pins.HeldPin) -> bytearray:
        if held.here or self._source is None:
            return held.read()
        # A forked child has not inherited it, and keeps its own from here on.
        given = pins.pin_bytes(self._source())
        self._pin = None
        return given

    def _log_in_with(self, slot: Slot, pin: bytearray | None) -> None:
        by_pin_pad = pin is None and slot.login_required and slot.pin_pad
        if pin is not None:
            pins.check_not_refused((self.module.path, self.serial), pin)
        elif slot.login_required and not by_pin_pad:
            raise HSMError(f"{self.name} needs a PIN")
        session = self._new_session(slot)
        code = codes.OK
        if pin is not None or by_pin_pad:
            code = self.module.library().functions.login(session.handle, pin)
        # The latter by a session of ours that could not be logged out, or by other code in this
        # process: the token did not look at the PIN.
        if code not in (codes.OK, codes.USER_ALREADY_LOGGED_IN):
            self.module.close_session(session)
            fault = Fault(code)
            if code not in codes.PIN_REFUSED:
                raise fault
            if pin is not None:
                pins.remember_refused((self.module.path, self.serial), pin)
            _events.report_failure("hsm.login.refused", token=self.label)
            raise hsm_error(fault, self.name)
        self._session, self._session_epoch = session, self._now()
        self._logged_in = code == codes.OK and (pin is not None or by_pin_pad)
        self._epoch += 1
        try:
            if pin is not None and self._logged_in and self._pin is None:
                self._pin = pins.HeldPin(pin)
            _events.report("hsm.session.opened", token=self.label)
        except BaseException:
            self._drop()
            raise

    def _new_session(self, slot: Slot) -> Any:  # noqa: ANN401 - python-pkcs11's
        from strongroom.hsm import binding

        try:
            return binding.open_session(slot, write=not self._read_only)
        except Fault as fault:
            if fault.code != codes.TOKEN_WRITE_PROTECTED or self._read_only:
                raise
        self._read_only = True
        return binding.open_session(slot, write=False)

    def _find_slot(self) -> Slot:
        if self._slot is None or self._slot_epoch != self._now():
            choice = Choice(label=self.label, serial=self.serial)
            found = choice.among(self.module.slots(), self.module.path)
            if found is None:
                raise Fault(codes.TOKEN_NOT_PRESENT)
            self._slot, self._slot_epoch = found, self._now()
        return self._slot

    def _drop(self) -> None:
        """Close all sessions, as far as they let themselves be closed; those of a parent stay."""
        for lane in (*self._pool, self._aside):
            self._close(lane)
        if self._session is not None and self._session_epoch == self._now():
            self.module.close_session(self._session, log_out=self._logged_in)
        self._session = None
        self._lane.forget()

    def _close(self, lane: Lane) -> None:
        if self._current(lane):
            self.module.close_session(lane.session)
        lane.forget()

    # --- Use ------------------------------------------------------------------------------------

    def run(self, operation: Callable[[Lane], T], timeout: float, pooled: bool = False) -> T:
        """Do something with a session, and recover once from a session that is lost.

        Args:
            operation: What is done. It may be done again, so it must not have been done by halves.
            timeout: Seconds to wait for other threads.
            pooled: The module is thread-safe: threads have a session each.

        Raises:
            HSMError: The token is out of reach, or refused.
        """
        if pooled:
            return self._run_pooled(operation, timeout)
        lane = self._lane
        if not lane.lock.acquire(True, timeout):
            raise busy(self.module.path, timeout)
        fresh = False
        try:
            if lane.inside:
                lane.refuse()
            lane.inside = True
            try:
                if lane.epoch != (self._epoch, self.module.epoch, _generation()):
                    fresh = not self.alive()
                    self._ready()
                return operation(lane)
            except Fault as error:
                fault, seen = error, self._epoch
            finally:
                lane.inside = False
        finally:
            lane.lock.release()
        return self._recover(operation, fault, seen, fresh, timeout)

    def run_aside(self, operation: Callable[[Lane], T], timeout: float) -> T:
        """Do something as `run` does, also in the middle of another operation of this thread.

        For the signer of the audit log to which that operation reports: it must answer before the
        operation goes on. It has a session of its own then, under the same lock.

        Raises:
            HSMError: As `run`.
        """
        with self.module.locked(timeout):
            if not self._lane.inside:
                return self.run(operation, timeout)
            # Who is inside has the lock, so it is this thread.
            for again in (True, False):
                try:
                    if not self._current(self._aside):
                        self._ready_pooled(self._aside)
                    return operation(self._aside)
                except Fault as error:
                    fault = error
                    self._close(self._aside)
                    if not again or fault.code not in codes.RECOVERABLE:
                        break
            raise hsm_error(fault, self.name)

    def _current(self, lane: Lane) -> bool:
        return lane.session is not None and lane.epoch == self._stamp()

    def _stamp(self) -> tuple[int, int, int]:
        return self._epoch, self.module.epoch, _generation()

    def _ready(self) -> None:
        """Give the first lane its session, which is the one that logs in."""
        if not self.alive():
            self._log_in()
        slot = self._find_slot()
        self._lane.use(self._session, self._stamp(), slot, self.module.library().functions)

    def _recover(
        self,
        operation: Callable[[Lane], T],
        fault: Fault,
        seen: int,
        fresh: bool,
        timeout: float,
    ) -> T:
        """Do it again: with a new session, then with a module that was initialised anew."""
        if fault.code not in codes.RECOVERABLE:
            raise hsm_error(fault, self.name)
        with self.module.alone(timeout):
            lane = self._lane
            if lane.inside:
                lane.refuse()
            lane.inside = True
            try:
                steps = [self._restart]
                # A session that was opened just now is as good as another one would be.
                if not fresh:
                    steps.insert(0, self._drop if self._epoch == seen else self._ready)
                for step in steps:
                    try:
                        step()
                        self._ready()
                        result = operation(lane)
                    except Fault as error:
                        fault = error
                        if fault.code not in codes.RECOVERABLE:
                            break
                    else:
                        _events.report("hsm.session.lost", token=self.label)
                        return result
                # Nothing stays open on a token that fails: the next call begins anew.
                self._drop()
            finally:
                lane.inside = False
        if fault.code in codes.RECOVERABLE:
            _events.report_failure("hsm.unreachable", token=self.label)
        raise hsm_error(fault, self.name)

    def _restart(self) -> None:
        self._drop()
        found = _look_again(self.module, Choice(label=self.label, serial=self.serial))
        self._slot, self._slot_epoch = found, self._now()

    # --- A thread-safe module's sessions --------------------------------------------------------

    def _run_pooled(self, operation: Callable[[Lane], T], timeout: float) -> T:
        lane = self._take(timeout)
        try:
            # The module's lock comes before a lane's: who wants all of them takes them so.
            for _ in range(3):
                with lane.locked(self.module.path, timeout):
                    if self._current(lane):
                        return operation(lane)
                with self.module.locked(timeout), lane.locked(self.module.path, timeout):
                    self._ready_pooled(lane)
            raise Fault(codes.SESSION_CLOSED)  # Others recovered again and again meanwhile.
        except Fault as error:
            fault, seen = error, self._epoch
        finally:
            self._give_back(lane)
        return self._recover(operation, fault, seen, False, timeout)

    def _ready_pooled(self, lane: Lane) -> None:
        if not self.alive():
            self._log_in()
        slot = self._find_slot()
        session = self._new_session(slot)
        lane.use(session, self._stamp(), slot, self.module.library().functions)

    def _take(self, timeout: float) -> Lane:
        with self._changed:
            if not self._idle and len(self._pool) < POOL:
                lane = Lane(threading.Lock())
                self._pool.append(lane)
                self.module.pool_locks.append(lane.lock)
                return lane
            if not self._changed.wait_for(lambda: self._idle, timeout):
                raise busy(self.module.path, timeout)
            return self._idle.pop()

    def _give_back(self, lane: Lane) -> None:
        with self._changed:
            self._idle.append(lane)
            self._changed.notify()

    def after_fork(self) -> None:
        """Start anew in a forked child: what threads of the parent had lent does not come back."""
        self._forget_pool()
        self._changed = threading.Condition(threading.Lock())
        self._lane.inside = False

    def _forget_pool(self) -> None:
        for lane in self._pool:
            self.module.pool_locks.remove(lane.lock)
        self._pool, self._idle = [], []


def open_token(module: Module, choice: Choice, pin: PinSource, timeout: float) -> Token:
    """Open a token, or share the one that is open.

    Raises:
        HSMError: There is no such token, it is not initialised, refused the PIN, or is out of
            reach.
    """
    with module.alone(timeout):
        try:
            return _open(module, choice, pin)
        except Fault as error:
            fault = error
        if fault.code in codes.RECOVERABLE:
            # Once; and not after a PIN that was refused, which is no Fault any more.
            try:
                module.reinitialize()
                return _open(module, choice, pin)
            except Fault as error:
                fault = error
    raise hsm_error(fault, module.path)


def _open(module: Module, choice: Choice, pin: PinSource) -> Token:
    slot = choice.among(module.slots(), module.path)
    if slot is None and not _in_use(module):
        slot = _look_again(module, choice)
    if slot is None:
        raise HSMError(f"{module.path} has not {choice}")
    token = module.tokens.get((slot.serial, slot.label)) or Token(module, slot)
    token.join(pin)
    module.tokens[token.identity] = token
    return token


def _look_again(module: Module, choice: Choice) -> Slot | None:
    """Look for a token after another C_Initialize, when modules list their tokens.

    One that came later is seen then. SoftHSM also leaves a token out while another process writes
    to it, as each login does: 26 of 400 openings by four processes at once did not see it.
    """
    deadline = time.monotonic() + LOOK_SECONDS
    while module.reinitialize():
        slot = choice.among(module.slots(), module.path)
        if slot is not None or time.monotonic() > deadline:
            return slot
        time.sleep(LOOK_SECONDS / 20)
    return None


def _in_use(module: Module) -> bool:
    return any(token.alive() for token in module.tokens.values())
