"""What an engine's answer means for a message that it had of the backlog.

    done                                    finished
    failed                                  another attempt, or a dead letter
    rejected: final (too_large …)           a dead letter
              storage, not_kept             offered again after pauses that grow, free of charge
              anything else                 offered again soon; a suspect, which costs work each time, after such pauses

Pure, as the ledger.
"""

from __future__ import annotations

from collections.abc import Callable

from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.master.backlog.entry import Decision, Reservation
from harmonicio.master.backlog.ledger import Ledger

#: An engine that refused a message is not offered it again at once.
REFUSED_AGAIN_AFTER_S = 0.1
#: What is no fault of the message, and may last: it is offered again after pauses that grow.
PUT_OFF = (RejectReason.STORAGE, RejectReason.NOT_KEPT)


def decide(
    ledger: Ledger, reservation: Reservation, outcome: Outcome, now: float, chance: Callable[[], float]
) -> Decision:
    """Have the ledger take an answer.

    Args:
        now: Monotonic seconds.
        chance: Returns a random number in [0, 1), for pauses.
    """
    if outcome.kind is OutcomeKind.DONE:
        return ledger.finish(reservation)
    if outcome.kind is OutcomeKind.FAILED:
        failure = outcome.failure or Failure("Unknown", "The engine did not say why.")
        return ledger.fail(reservation, failure, now, chance())
    if outcome.reason is not None and outcome.reason.is_final:
        failure = Failure("Rejected", f"{outcome.reason}: {outcome.text}", retryable=False)
        return ledger.bury(reservation, failure)
    if outcome.reason in PUT_OFF:
        return ledger.put_off(reservation, now, chance(), is_recalled=outcome.reason is RejectReason.STORAGE)
    if reservation.entry.is_suspect:  # No engine came to rest for it, and each try costs work there.
        return ledger.put_off(reservation, now, chance(), is_recalled=False)
    return ledger.release(reservation, now, REFUSED_AGAIN_AFTER_S)
