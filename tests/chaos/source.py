"""A source process of the load: sends at a steady rate, and writes down what it was told.

    python -m chaos.source NAME SEED RATE FOLDER [--proxies] [--spool]

Started again after a kill, it finds in its own journal what it never heard to be safe, and sends that again first, with
the same ids. With ``--spool`` what `send` has returned for is the spool's to send again.

It sends until the file ``stop`` is there, waits until the outcome of every message is known, and ends with 0; with 3
when that takes longer than :data:`SETTLE_WITHIN_S`. SIGTERM makes it close its connectors and end, with 4 when some
messages were neither safe nor in a spool by then.

With ``--proxies`` all its data connections go through fault proxies, to which orders on standard input apply:
``impair {"delay_s": 0.2}``, ``heal``, ``cut``, ``reset``.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

from benches.detour import Detour
from benches.fault_proxy import FaultProxy, Faults
from chaos import journals
from chaos.load import STREAMS, Offer, digest_of, offer
from harmonicio.control.client import MasterClient
from harmonicio.control.settings_files import load_settings, read_token
from harmonicio.core.errors import HandlerFailed, HarmonicIOError, UndeliveredError
from harmonicio.core.lease import Address
from harmonicio.core.roles import Role
from harmonicio.stream_connector import StreamConnector
from harmonicio.stream_connector.delivery import Delivery, DeliveryState
from harmonicio.stream_connector.leasing import LeaseClient

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.1
SETTLE_WITHIN_S = 240.0
_ENDS = {
    DeliveryState.DONE: "processed",
    DeliveryState.FAILED: "dead",
    DeliveryState.REJECTED: "rejected",
    DeliveryState.EXPIRED: "expired",
}
_SHED = "Shed"


class Notes:
    """Writes down what becomes of deliveries; one thread looks at all of them."""

    def __init__(self, journal: journals.Journal) -> None:
        self._journal = journal
        self._unsafe: list[Delivery] = []
        self._unfinished: list[Delivery] = []
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        with self._lock:
            return len(self._unsafe) + len(self._unfinished)

    @property
    def unsafe(self) -> int:
        with self._lock:
            return len(self._unsafe)

    def sent(self, what: Offer, number: int, digest: str) -> None:
        self._journal.write(sent=what.message_id, number=number, stream=what.stream, digest=digest, emits=what.emits)

    def kept(self, what: Offer) -> None:
        self._journal.write(kept=what.message_id)

    def add(self, delivery: Delivery) -> None:
        with self._lock:
            self._unsafe.append(delivery)

    def look(self) -> None:
        with self._lock:
            self._unsafe = [each for each in self._unsafe if not self._note_safety(each)]
            self._unfinished = [each for each in self._unfinished if not self._note_end(each)]

    def _note_safety(self, delivery: Delivery) -> bool:
        state = delivery.state
        if state is not DeliveryState.REJECTED:
            if not delivery.is_safe:
                return False
            is_done = state is DeliveryState.DONE and delivery.route == "engine"
            self._journal.write(safe=delivery.message_id, how="done" if is_done else "stored")
        if state is DeliveryState.STORED:
            with suppress(HarmonicIOError):  # It may have come to its end just now, which is noted next.
                delivery.result(0)  # Has the connector ask for the outcome.
        self._unfinished.append(delivery)
        return True

    def _note_end(self, delivery: Delivery) -> bool:
        if not delivery.is_final:
            return False
        error = delivery.error()
        is_shed = isinstance(error, HandlerFailed) and error.error_type == _SHED
        state = "shed" if is_shed else _ENDS[delivery.state]
        self._journal.write(end=delivery.message_id, state=state, text=str(error or "")[:300])
        return True


def offers(journal: Path, seed: int, name: str) -> Iterator[tuple[Offer, int, bool]]:
    """Yield what was sent and is neither safe nor in a spool, then new messages; each with its number and newness."""
    unheard: dict[str, int] = {}
    newest = -1
    for line in journals.read(journal):
        if "sent" in line:
            unheard[line["sent"]] = line["number"]
            newest = max(newest, line["number"])
        else:
            unheard.pop(line.get("safe") or line.get("kept", ""), None)
    yield from ((offer(seed, name, number), number, False) for number in unheard.values())
    yield from ((offer(seed, name, number), number, True) for number in count(newest + 1))


class Proxies(Detour):
    """Proxies of the connectors of one source; those before engines that are gone are closed."""

    KEPT = 8

    def __init__(self, client: LeaseClient, proxies: dict[Address, FaultProxy], lock: threading.Lock) -> None:
        super().__init__(client, proxies)
        self._lock = lock

    def proxy(self, address: Address) -> FaultProxy:
        with self._lock:
            found = super().proxy(address)
            self.proxies[address] = self.proxies.pop(address)  # Those that were named last stand last.
            for each in list(self.proxies)[: -self.KEPT]:
                if not self.proxies[each].connections:
                    self.proxies.pop(each).close()
            return found


class Source:
    """One source process."""

    def __init__(self, name: str, seed: int, rate: float, folder: Path, *, has_proxies: bool, has_spool: bool) -> None:
        self._name, self._seed, self._pause_s = name, seed, 1 / rate
        self._path, self._stop = folder / f"source-{name}.jsonl", folder / "stop"
        self._proxies: dict[Address, FaultProxy] | None = {} if has_proxies else None
        self._spool = folder / f"spool-{name}" if has_spool else None
        self._proxies_lock = threading.Lock()
        self._is_told_to_end = threading.Event()
        self._is_over = threading.Event()

    def run(self) -> int:
        signal.signal(signal.SIGTERM, lambda *_: self._is_told_to_end.set())
        if self._proxies is not None:
            threading.Thread(target=self._obey, args=(self._proxies,), daemon=True).start()
        with journals.Journal(self._path) as journal:
            notes = Notes(journal)
            looking = threading.Thread(target=self._look, args=(notes,))
            looking.start()
            try:
                with ExitStack() as stack:
                    connectors = {each: stack.enter_context(self._connect(each)) for each in STREAMS}
                    self._send_all(connectors, notes)
                    self._settle(notes)
                    spooled = sum(each.close() for each in connectors.values())
            except UndeliveredError as error:
                spooled = 0
                _log.warning("%s", error)
            finally:
                self._is_over.set()
                looking.join()
            if self._is_told_to_end.is_set():
                return 4 if notes.unsafe and self._spool is None else 0
            return 3 if notes.left or spooled else 0

    def _connect(self, stream: str) -> StreamConnector:
        if self._proxies is None:
            return StreamConnector(stream=stream, spool=self._spool)
        settings = load_settings()
        client = MasterClient(settings.master.url, read_token(settings, (Role.SOURCE,)))
        return StreamConnector(stream=stream, client=Proxies(client, self._proxies, self._proxies_lock))

    def _send_all(self, connectors: dict[str, StreamConnector], notes: Notes) -> None:
        for each, number, is_new in offers(self._path, self._seed, self._name):
            if self._is_told_to_end.is_set() or (is_new and self._stop.exists()):
                return
            payload = each.payload()
            notes.sent(each, number, digest_of(payload))
            delivery = self._send(connectors[each.stream], each, payload)
            if self._spool is not None:
                notes.kept(each)
            notes.add(delivery)
            self._is_told_to_end.wait(self._pause_s)

    def _send(self, connector: StreamConnector, each: Offer, payload: bytes) -> Delivery:
        return connector.send(payload, metadata=each.metadata, priority=each.priority, message_id=each.message_id)

    def _settle(self, notes: Notes) -> None:
        deadline = time.monotonic() + SETTLE_WITHIN_S
        while notes.left and time.monotonic() < deadline and not self._is_told_to_end.wait(LOOK_EVERY_S):
            pass

    def _look(self, notes: Notes) -> None:
        while not self._is_over.wait(LOOK_EVERY_S):
            notes.look()
        notes.look()

    def _obey(self, proxies: dict[Address, FaultProxy]) -> None:
        """Do to the proxies what is ordered on standard input."""
        for line in sys.stdin:
            order, _, options = line.partition(" ")
            with self._proxies_lock:
                for proxy in proxies.values():
                    if order == "impair":
                        proxy.impair(Faults(**json.loads(options)))
                    else:
                        getattr(proxy, order.strip())()


def main() -> None:
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("seed", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--proxies", action="store_true")
    parser.add_argument("--spool", action="store_true")
    given = parser.parse_args()
    options = {"has_proxies": given.proxies, "has_spool": given.spool}
    sys.exit(Source(given.name, given.seed, given.rate, given.folder, **options).run())


if __name__ == "__main__":
    main()
