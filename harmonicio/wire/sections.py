"""The header sections of each frame type: records to bytes and back.

Reading is strict about what it needs and ignores what it does not know, so that neighbouring versions understand each
other. Whatever is wrong raises :class:`RemoteProtocolError`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

from harmonicio.core.errors import InvalidInput, RemoteProtocolError
from harmonicio.core.message import MAX_METADATA_BYTES, Failure, Metadata, Outcome, OutcomeKind, RejectReason
from harmonicio.core.names import check_message_id
from harmonicio.core.printable import one_line
from harmonicio.wire import events
from harmonicio.wire.codec import (
    join_lists,
    pack,
    pack_flat,
    pack_lists,
    pack_numbers,
    pack_value,
    unpack,
    unpack_numbers,
)
from harmonicio.wire.frames import FrameType, pack_control
from harmonicio.wire.metadata import METADATA_ONLY

_UNKNOWN_OUTCOME = 0
_LIST_OF_FOUR = b"\x94"
#: A list of a list of three numbers has no more.
_ONE_RANGE_BYTES = 2 + 3 * 9
#: Nearly all outcomes are one of these, and to make one costs more than all else that is read of it.
_WITHOUT_DETAIL = {int(kind): Outcome(kind) for kind in (OutcomeKind.DONE, OutcomeKind.STORED)}
#: What a GOODBYE says is meant for people and logs.
MAX_GOODBYE_LENGTH = 2_000
#: Together at most 64 KiB in UTF-8, so that a failure always fits beside metadata, and among other outcomes.
MAX_ERROR_TYPE_LENGTH, MAX_FAILURE_TEXT_LENGTH, MAX_TRACEBACK_LENGTH = 200, 4_000, 12_000


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def hello_frame(hello: events.Hello) -> bytes:
    """Return a HELLO; empty fields are left out."""
    section = {
        "role": str(hello.role),
        "stream": hello.stream,
        "ticket": hello.ticket,
        "source": hello.source,
        "engine": hello.engine,
        "worker": hello.worker,
        "checksums": list(hello.checksums),
        "max_message_bytes": hello.max_message_bytes,
        "software": hello.software,
        "arena": hello.arena,
        "versions": list(hello.versions),
    }
    return pack_control(FrameType.HELLO, pack({key: value for key, value in section.items() if value}))


def credit_frame(messages: int, size_bytes: int) -> bytes:
    return pack_control(FrameType.CREDIT, pack_numbers([messages, size_bytes]))


def depth_frame(messages: int) -> bytes:
    return pack_control(FrameType.DEPTH, pack_numbers([messages]))


def outcomes_frame(ranges: Sequence[tuple[int, int, OutcomeKind, bytes]]) -> bytes:
    """Return OUTCOMES for ranges whose details are packed already: one frame, or as many as they need. Cannot fail."""
    if len(ranges) == 1 and not ranges[0][3]:  # As nearly always.
        first, last, kind, _ = ranges[0]
        return pack_control(FrameType.OUTCOMES, pack_numbers([[int(kind), first, last]]))
    sections = join_lists(_packed_range(*item) for item in ranges)
    return b"".join(pack_control(FrameType.OUTCOMES, section) for section in sections)


def held_frame(sequences: Iterable[int]) -> bytes:
    """Return HELD for these messages: one frame, or as many as they need."""
    return _list_frames(FrameType.HELD, sequences)


def released_frame(sequences: Iterable[int]) -> bytes:
    """Return RELEASED for these messages: one frame, or as many as they need."""
    return _list_frames(FrameType.RELEASED, sequences)


def subscribe_frame(message_ids: Sequence[str]) -> bytes:
    """Return SUBSCRIBE for these messages: one frame, or as many as they need."""
    return _list_frames(FrameType.SUBSCRIBE, message_ids)


def results_frame(results: Iterable[events.Result]) -> bytes:
    """Return RESULTS: one frame, or as many as they need."""
    rows: list[Any] = []
    for result in results:
        if result.outcome is None:
            rows.append([_UNKNOWN_OUTCOME, result.message_id, None])
        else:
            rows.append([int(result.outcome.kind), result.message_id, outcome_detail(result.outcome)])
    return _list_frames(FrameType.RESULTS, rows)


def drain_frame(within_s: float) -> bytes:
    return pack_control(FrameType.DRAIN, pack([within_s]))


def goodbye_frame(goodbye: events.Goodbye) -> bytes:
    section = {"code": goodbye.code, "text": _reason(goodbye.text), "hint": _reason(goodbye.hint)}
    return pack_control(FrameType.GOODBYE, pack({key: value for key, value in section.items() if value}))


def message_section(metadata: Metadata | None, text_id: str, failure: Failure | None) -> bytes:
    """Return the header section of a MESSAGE, which is empty when there is nothing to say.

    Raises:
        InvalidInput: the metadata holds something that cannot be sent.
    """
    section: dict[str, Any] = {}
    if text_id:
        section["id"] = text_id
    if metadata:
        section["metadata"] = dict(metadata)
    if failure is not None:
        section["failure"] = failure_map(failure)
    return pack(section) if section else b""


def raw_message_id(message_id: str) -> bytes | None:
    """Return the 16 bytes of an id of our own, or None for a text that a source brought."""
    if len(message_id) != 32:
        return None
    try:
        raw = bytes.fromhex(message_id)
    except ValueError:
        return None
    return raw if len(raw) == 16 and raw.hex() == message_id else None


def source_section(metadata: Metadata | None, message_id: str) -> bytes:
    """Return the header section of a message as its source makes it; an id that travels raw has no place in it.

    Raises:
        InvalidInput: the metadata holds something that cannot be sent, or is larger than ``MAX_METADATA_BYTES``.
    """
    is_text = bool(message_id) and raw_message_id(message_id) is None
    flat = pack_flat(metadata) if metadata and not is_text else None
    section = METADATA_ONLY + flat if flat else message_section(metadata, message_id if is_text else "", None)
    if len(section) > MAX_METADATA_BYTES:
        raise InvalidInput(
            f"The metadata has {len(section)} bytes, more than {MAX_METADATA_BYTES}.", hint="Send it as payload."
        )
    return section


def failure_map(failure: Failure) -> dict[str, Any]:
    """Return a failure as it stands in sections and stores; of a long traceback the end is kept."""
    return {
        "type": sendable(failure.error_type[:MAX_ERROR_TYPE_LENGTH]),
        "text": sendable(failure.text[:MAX_FAILURE_TEXT_LENGTH]),
        "traceback": sendable(failure.traceback[-MAX_TRACEBACK_LENGTH:]),
        "retryable": failure.retryable,
    }


def outcome_detail(outcome: Outcome) -> Any:
    """Return what goes beside the kind of an outcome: see section 5 of the protocol."""
    if outcome.failure is not None:
        return failure_map(outcome.failure)
    if outcome.kind is OutcomeKind.REJECTED:
        return {"reason": str(outcome.reason or ""), "text": sendable(outcome.text)}
    return outcome.result


def packed_detail(outcome: Outcome) -> bytes:
    """Return the detail of an outcome as msgpack, empty when there is none.

    Raises:
        InvalidInput: it cannot be sent.
    """
    detail = outcome_detail(outcome)
    return b"" if detail is None else pack_value(detail)


def _list_frames(frame_type: FrameType, rows: Iterable[Any]) -> bytes:
    return b"".join(pack_control(frame_type, section) for section in pack_lists(rows))


def _packed_range(first: int, last: int, kind: OutcomeKind, detail: bytes) -> bytes:
    packed = pack_numbers([int(kind), first, last])
    return _LIST_OF_FOUR + packed[1:] + detail if detail else packed


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_hello(section: bytes) -> events.Hello:
    fields = _map(section, "HELLO")
    try:
        role = events.Role(fields.get("role", ""))
    except ValueError:
        role_text = reprlib.repr(fields.get("role"))
        raise RemoteProtocolError(f"HELLO names the role {role_text}, which nobody has.") from None
    return events.Hello(
        role=role,
        stream=_text(fields, "stream"),
        ticket=_text(fields, "ticket"),
        source=_text(fields, "source"),
        engine=_text(fields, "engine"),
        worker=_text(fields, "worker"),
        checksums=tuple(item for item in _list(fields.get("checksums", []), "checksums") if isinstance(item, str)),
        max_message_bytes=_count(fields.get("max_message_bytes", 0), "max_message_bytes"),
        software=_text(fields, "software"),
        arena=_count(fields.get("arena", 0), "arena"),
        versions=tuple(_count(item, "version") for item in _list(fields.get("versions", []), "versions")),
    )


def read_credit(section: bytes) -> events.Credit:
    items = _items(section, "CREDIT", 2)
    return events.Credit(_count(items[0], "messages"), _count(items[1], "bytes"))


def read_depth(section: bytes) -> events.Depth:
    return events.Depth(_count(_items(section, "DEPTH", 1)[0], "messages"))


def read_outcomes(section: bytes) -> events.OutcomesReceived:
    if len(section) <= _ONE_RANGE_BYTES and (plain := _plain_range(section)) is not None:
        return events.OutcomesReceived((plain,))
    rows = _list(unpack(section), "OUTCOMES")
    return events.OutcomesReceived(tuple(_read_range(row) for row in rows))


def _plain_range(section: bytes) -> events.OutcomeRange | None:
    """Return the one range that has no detail, which is nearly all that is ever answered; None where it is not that."""
    match unpack_numbers(section):
        case [[kind, first, last]] if kind in _WITHOUT_DETAIL and 0 <= first <= last < 2**63:
            return events.OutcomeRange(first, last, _WITHOUT_DETAIL[kind])
    return None


def read_held(section: bytes) -> events.Held:
    return events.Held(tuple(_count(item, "held") for item in _list(unpack(section), "HELD")))


def read_released(section: bytes) -> events.Released:
    return events.Released(tuple(_count(item, "released") for item in _list(unpack(section), "RELEASED")))


def read_subscribe(section: bytes) -> events.Subscribe:
    return events.Subscribe(tuple(_message_id(item) for item in _list(unpack(section), "SUBSCRIBE")))


def read_results(section: bytes) -> events.ResultsReceived:
    results = []
    for row in _list(unpack(section), "RESULTS"):
        items = _list(row, "result")
        if len(items) < 3:
            raise RemoteProtocolError("A result has fewer than three parts.")
        outcome = None if items[0] == _UNKNOWN_OUTCOME else read_outcome(items[0], items[2])
        results.append(events.Result(_message_id(items[1]), outcome))
    return events.ResultsReceived(tuple(results))


def read_drain(section: bytes) -> events.Drain:
    seconds = _items(section, "DRAIN", 1)[0]
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds < 1e9:
        raise RemoteProtocolError("DRAIN does not say a number of seconds.")
    return events.Drain(float(seconds))


def read_goodbye(section: bytes) -> events.Goodbye:
    fields = _map(section, "GOODBYE")
    code, text, hint = (_reason(_text(fields, key)) for key in ("code", "text", "hint"))
    return events.Goodbye(code, text, hint)


def read_message_section(section: bytes) -> tuple[str, Failure | None]:
    """Return text id and failure of a MESSAGE whose header section is not empty.

    Where there is nothing but metadata, that is left for whoever looks at it.
    """
    if section.startswith(METADATA_ONLY):
        return "", None
    fields = _map(section, "MESSAGE")
    if not isinstance(fields.get("metadata", {}), dict):
        raise RemoteProtocolError("The metadata of a message is not a map.")
    text_id = _message_id(fields["id"]) if "id" in fields else ""
    failure = read_failure(fields["failure"]) if "failure" in fields else None
    return text_id, failure


def read_failure(fields: Any) -> Failure:
    if not isinstance(fields, dict):
        raise RemoteProtocolError("A failure is not a map.")
    is_retryable = fields.get("retryable", True)
    return Failure(_text(fields, "type"), _text(fields, "text"), _text(fields, "traceback"), is_retryable is not False)


def read_outcome(kind: Any, detail: Any) -> Outcome:
    """Return the outcome that a kind and its detail describe."""
    if detail is None and type(kind) is int and kind in _WITHOUT_DETAIL:
        return _WITHOUT_DETAIL[kind]
    try:
        outcome_kind = OutcomeKind(kind)
    except ValueError:
        raise RemoteProtocolError(f"There is no outcome of kind {reprlib.repr(kind)}.") from None
    if outcome_kind is OutcomeKind.FAILED:
        return Outcome(outcome_kind, failure=read_failure(detail))
    if outcome_kind is OutcomeKind.REJECTED:
        return _read_rejection(detail)
    return Outcome(outcome_kind, result=detail)


def _read_rejection(detail: Any) -> Outcome:
    if not isinstance(detail, dict):
        raise RemoteProtocolError("A rejection is not a map.")
    try:
        reason = RejectReason(detail.get("reason", ""))
    except ValueError:
        raise RemoteProtocolError(f"There is no rejection for {reprlib.repr(detail.get('reason'))}.") from None
    return Outcome.rejected(reason, _text(detail, "text"))


def _read_range(row: Any) -> events.OutcomeRange:
    items = _list(row, "outcome")
    if len(items) < 3:
        raise RemoteProtocolError("An outcome has fewer than three parts.")
    first, last = _count(items[1], "first"), _count(items[2], "last")
    if first > last:
        raise RemoteProtocolError(f"An outcome range runs from {first} to {last}.")
    return events.OutcomeRange(first, last, read_outcome(items[0], items[3] if len(items) > 3 else None))


def _map(section: bytes, name: str) -> dict[str, Any]:
    fields = unpack(section)
    if not isinstance(fields, dict):
        raise RemoteProtocolError(f"The header section of {name} is not a map.")
    return fields


def _items(section: bytes, name: str, at_least: int) -> list[Any]:
    items = _list(unpack(section), name)
    if len(items) < at_least:
        raise RemoteProtocolError(f"{name} has fewer than {at_least} parts.")
    return items


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise RemoteProtocolError(f"{name} is not a list.")
    return value


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise RemoteProtocolError(f"{key!r} is not text.")
    return value


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise RemoteProtocolError(f"{name!r} is not a count.")
    return value


def _message_id(value: Any) -> str:
    try:
        return check_message_id(value)
    except InvalidInput as error:
        raise RemoteProtocolError(error.text) from None


def _reason(text: str) -> str:
    """A peer's words end up in logs and on terminals: one line of bounded length, without control characters."""
    return one_line(text[:MAX_GOODBYE_LENGTH])[:MAX_GOODBYE_LENGTH]


def sendable(text: str) -> str:
    """Return the text as UTF-8 can express it: texts of exceptions may hold file names that it cannot."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
