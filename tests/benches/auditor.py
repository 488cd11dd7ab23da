"""The auditor: holds the ledger of what sources were told against what became of their messages.

It shares no code with the product and trusts none of its figures. Tests tell it what they saw from outside: what a
source sent and was told, what handlers were given, what lies in the tiers, where each message was found in the end.

    sent ──► told safe ──► told its end          (what the source saw)
      └───► given to handlers ──► effects        (what was done)
      └───► found: processed, dead, shed, waiting   (where it is in the end)

Rules, each of which is a violation when it is broken:

- A message that was called safe is found in exactly one state. One that was not may be found nowhere, or in one.
- What its source was told last agrees with where it is found.
- Of messages that must be handled in order, none is handled for the first time before one that stands before it.
- Handlers and tiers get the bytes that were sent; where a source has sent others under the same id, either of them.
- A processed message has exactly one effect, where effects are counted; a dead or shed one has none. But one of which
  an attempt was cut short between its effect and its answer may be dead or shed and have its one effect.
- One that was shed may have come again: beside its record it may be found in one other state.
- One that its source has sent again under its id may be dead and processed: engines do not know of dead letters.
- One that an administrator has replayed may be anything that it was not called before; a purged one may be nowhere.
- A dead letter keeps the bytes that were sent.
- Nothing is found that was never sent. Gauges are zero at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

PROCESSED, DEAD, SHED, WAITING = "processed", "dead", "shed", "waiting"
STATES = (PROCESSED, DEAD, SHED, WAITING)


@dataclass(slots=True)
class Account:
    """All that was seen of one message."""

    digest: str = ""
    other_digests: set[str] = field(default_factory=set)
    told_safe: set[str] = field(default_factory=set)
    told_end: set[str] = field(default_factory=set)
    found: Counter[str] = field(default_factory=Counter)
    effects: int = 0
    executions: int = 0
    first_execution: int = 0
    is_cut_short: bool = False
    offers: int = 0
    is_replayed: bool = False
    is_purged: bool = False

    def has_digest(self, digest: str) -> bool:
        return digest == self.digest or digest in self.other_digests


class Auditor:
    """The ledger of one run.

    Args:
        has_effects: Whether effects are counted: then each processed message must have one.
    """

    def __init__(self, *, has_effects: bool = True) -> None:
        self._has_effects = has_effects
        self._accounts: dict[str, Account] = {}
        self._violations: list[str] = []
        self._executions = 0
        self._orders: list[Sequence[str]] = []

    def __repr__(self) -> str:
        return f"<Auditor of {len(self._accounts)} messages, {len(self._violations)} violations so far>"

    # ── what the source saw ──────────────────────────────────────────────────────────────────────────────────────────

    def sent(self, message: str, digest: str) -> None:
        """A source offered a message; it may offer the same bytes again."""
        account = self._accounts.setdefault(message, Account())
        account.offers += 1
        account.digest = account.digest or digest
        if account.digest != digest:
            self._blame(message, "was sent twice with other bytes, which is a fault of the test")

    def sent_others(self, message: str, digest: str) -> None:
        """A source offers other bytes under an id that is or will be used, on purpose."""
        self._accounts.setdefault(message, Account()).other_digests.add(digest)

    def told_safe(self, message: str, how: str) -> None:
        """The source was told that the message is safe: ``how`` is ``done`` or ``stored``."""
        if account := self._known(message, "was called safe"):
            account.told_safe.add(how)

    def told_end(self, message: str, state: str) -> None:
        """The source was told what became of it: one of :data:`STATES`, but ``waiting``."""
        if account := self._known(message, f"was called {state}"):
            account.told_end.add(state)

    def in_order(self, messages: Sequence[str]) -> None:
        """These shall be handled in this order; those that no handler was given do not count."""
        self._orders.append(messages)

    # ── what was done ────────────────────────────────────────────────────────────────────────────────────────────────

    def executed(self, message: str, digest: str) -> None:
        """A handler was given the message."""
        if account := self._known(message, "was handled"):
            self._executions += 1
            account.executions += 1
            account.first_execution = account.first_execution or self._executions
            if not account.has_digest(digest):
                self._blame(message, f"reached a handler with other bytes: {digest}, sent {account.digest}")

    def effect(self, message: str, digest: str) -> None:
        """One effect of the message is there at the end, as a copy in a tier."""
        if account := self._known(message, "has an effect"):
            account.effects += 1
            if not account.has_digest(digest):
                self._blame(message, f"has other bytes in its tier: {digest}, sent {account.digest}")

    def cut_short(self, message: str) -> None:
        """The message was given up before an effect of it could be seen: its engine worked on without being heard."""
        if account := self._known(message, "was cut short"):
            account.is_cut_short = True

    def replayed(self, message: str) -> None:
        """Somebody lets a dead letter wait again."""
        if account := self._known(message, "was replayed"):
            account.is_replayed = True

    def purged(self, message: str) -> None:
        """Somebody deletes a dead letter."""
        if account := self._known(message, "was purged"):
            account.is_purged = True

    # ── where it is in the end ───────────────────────────────────────────────────────────────────────────────────────

    def found(self, message: str, state: str) -> None:
        """The message is in this state at the end; said once for every place where it is."""
        if account := self._known(message, f"is {state}"):
            account.found[state] += 1

    def kept(self, message: str, digest: str) -> None:
        """The payload of a dead letter, as it can be read at the end."""
        if (account := self._known(message, "is kept")) and not account.has_digest(digest):
            self._blame(message, f"is kept with other bytes: {digest}, sent {account.digest}")

    def gauge(self, name: str, value: float) -> None:
        """What must be zero at the end."""
        if value:
            self._violations.append(f"{name} is {value:g} at the end, not 0")

    # ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────────────

    def figures(self) -> dict[str, int]:
        """Return how many messages were sent, called safe, found in each state, and handled more than once."""
        accounts = self._accounts.values()
        return {
            "sent": len(accounts),
            "safe": sum(bool(each.told_safe) for each in accounts),
            **{state: sum(bool(each.found[state]) for each in accounts) for state in STATES},
            "handled again": sum(max(0, each.executions - 1) for each in accounts),
        }

    def violations(self) -> list[str]:
        """Return every broken rule, as a sentence; an empty list is a clean ledger."""
        found = list(self._violations)
        for message, account in self._accounts.items():
            found += [f"message {message!r} {fault}" for fault in self._faults(account)]
        return found + [each for order in self._orders for each in self._overtakings(order)]

    def _overtakings(self, order: Sequence[str]) -> Iterator[str]:
        handled = [each for each in order if self._accounts[each].executions]
        for before, after in pairwise(handled):
            if self._accounts[after].first_execution < self._accounts[before].first_execution:
                yield f"message {after!r} was handled before {before!r}, which stands before it"

    def _faults(self, account: Account) -> list[str]:
        faults = []
        places = [state for state in STATES for _ in range(account.found[state])]
        may_be_both = account.is_cut_short or account.offers > 1 or account.other_digests
        if may_be_both and places == [PROCESSED, DEAD] and account.effects == 1:
            return faults
        told_end = account.told_end
        if SHED in places:  # Sent again it is a new message: the record is of an earlier copy.
            places = [state for state in places if state != SHED] or [SHED]
            told_end = told_end if places == [SHED] else told_end - {SHED}
        if len(places) > 1:
            faults.append(f"is in more than one place: {', '.join(places)}")
        if not places and account.told_safe and not account.is_purged:
            faults.append(f"was called safe ({', '.join(sorted(account.told_safe))}) and is nowhere")
        # Who has been told of a death is not told of a replay.
        told_end = told_end - ({DEAD} if account.is_replayed or account.is_purged else set())
        if len(told_end) > 1 or (told_end and places and told_end != set(places)):
            faults.append(f"was called {', '.join(sorted(told_end))} and is {', '.join(places)}")
        if "done" in account.told_safe and places and places != [PROCESSED]:
            faults.append(f"was answered `done` and is {', '.join(places)}")
        if self._has_effects:
            faults += self._faults_of_effects(account, places)
        return faults

    @staticmethod
    def _faults_of_effects(account: Account, places: list[str]) -> list[str]:
        if account.effects > 1:
            return [f"has {account.effects} effects"]
        if places == [PROCESSED] and not account.effects:
            return ["is processed without an effect"]
        return [f"is {places[0]} and has an effect"] if account.effects and places in ([DEAD], [SHED]) else []

    def _known(self, message: str, what: str) -> Account | None:
        account = self._accounts.get(message)
        if account is None:
            self._violations.append(f"message {message!r} {what} and was never sent")
        return account

    def _blame(self, message: str, text: str) -> None:
        self._violations.append(f"message {message!r} {text}")
