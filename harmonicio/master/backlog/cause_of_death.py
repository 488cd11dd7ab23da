"""What the ends of engines count against a message, and when it cannot be tried again for its counters.

Pure, as the ledger.
"""

from __future__ import annotations

from harmonicio.core.message import Failure
from harmonicio.master.backlog.entry import Charge, Entry, RetryPolicy, State


def count(entry: Entry, charge: Charge) -> None:
    """Count what the end of an engine says of a message that it had."""
    entry.attempts += charge.attempts
    entry.crashes += charge.crashes
    entry.is_timed_out = charge.attempts > 0
    entry.last_words = charge.words
    if entry.state is not State.RESERVED:
        entry.engine = charge.engine


def death_bytes(failure: Failure) -> int:
    """Return what the record of a death takes beside the share of its row."""
    said = (failure.error_type, failure.text, failure.traceback)
    return sum(len(each.encode("utf-8", "replace")) for each in said)


def cause_of_death(entry: Entry, policy: RetryPolicy, failure: Failure | None) -> Failure | None:
    """Return why the entry cannot be tried again; None when it can.

    Args:
        failure: What its handler has just raised, if it did. Without it, counters may be used up because an engine has
            ended, or because the stream was declared anew and allows fewer now.
    """
    last = f" The last one: {entry.last_words}" if entry.last_words else ""
    if entry.attempts >= policy.max_attempts:
        stopped = f"Its handler was stopped for taking too long; {entry.attempts} attempts are used up.{last}"
        too_many = f"Attempts that counted: {entry.attempts}. Its stream allows {policy.max_attempts} now."
        kind, text = ("TimedOut", stopped) if entry.is_timed_out else ("AttemptsUsedUp", too_many)
        return failure or Failure(kind, text)
    if entry.crashes >= policy.max_crashes:
        text = f"Engines that crashed while they handled it: {entry.crashes}.{last}"
        return failure or Failure("EngineCrashed", text)
    return None
