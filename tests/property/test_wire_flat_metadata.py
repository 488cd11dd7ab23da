"""Metadata of single values takes a shorter way through msgpack, which makes and reads the same."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harmonicio.core.errors import InvalidInput, RemoteProtocolError
from harmonicio.wire import metadata as metadata_module
from harmonicio.wire import sections
from harmonicio.wire.codec import pack_flat, unpack_flat
from harmonicio.wire.metadata import METADATA_ONLY, read_metadata

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
singles = st.one_of(st.none(), st.booleans(), numbers, st.text(), st.binary(max_size=40))
texts = st.text(max_size=5)
anything = st.recursive(singles, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
names = texts | st.integers() | st.binary(max_size=3)


def _or_error(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (InvalidInput, RemoteProtocolError) as error:
        return type(error), error.text


@given(st.dictionaries(names, anything, min_size=1, max_size=20))
@example({"text": "\ud800"})
@example({"number": 2**64})
@example({"number": -(2**63) - 1})
@example({f"{number}": number for number in range(16)})
@example({"nothing": {}})
def test_what_is_sent_is_the_same(metadata: dict[Any, Any]) -> None:
    assert _or_error(sections.source_section, metadata, "") == _or_error(sections.message_section, metadata, "", None)


def _read_without_the_shorter_way(section: bytes) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata_module, "unpack_flat", lambda packed: None)
        return _or_error(read_metadata, section)


@given(st.binary(max_size=60) | st.dictionaries(texts, anything, max_size=20).map(sections.pack))
@example(b"")
@example(b"\x80")
@example(b"\x82\xa1a\x01\xa1a\x02")
@example(b"\xde\x00\x01\xa1a\x01")
@example(b"\xde\x00\x5f" + b"".join(bytes((0xA1, 0x20 + number % 94, number)) for number in range(95)))
@example(b"\x81\xa1a\xc7\x00\x05")
@example(b"\x81\xa1a\xd6\xff\x00\x00\x00\x00")
@example(b"\x81\xc4\x01a\x01")
@example(b"\x81\xa1\xff\x01")
@example(b"\x81\xa1a\x01\x01")
def test_what_is_read_is_the_same(packed: bytes) -> None:
    assert _or_error(read_metadata, METADATA_ONLY + packed) == _read_without_the_shorter_way(METADATA_ONLY + packed)


def test_threads_do_not_mix_what_they_pack_where_msgpack_is_not_compiled() -> None:
    script = """
import sys, threading
from harmonicio.wire.codec import pack_flat, unpack_flat
sys.setswitchinterval(1e-6)
wrong = []
def pack(name):
    for number in range(2000):
        fields = {name: number, "well": name * 3}
        if unpack_flat(pack_flat(fields) or b"") != fields:
            wrong.append(fields)
threads = [threading.Thread(target=pack, args=(name,)) for name in "abc"]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.exit(bool(wrong))
"""
    environment = {**os.environ, "MSGPACK_PUREPYTHON": "1"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, timeout=60, check=False).returncode == 0


def test_it_is_the_way_of_usual_metadata_and_of_nothing_else() -> None:
    usual = {"well": "B03", "site": 4, "is_control": False, "gain": 1.5, "note": None}
    packed = pack_flat(usual)
    assert packed is not None
    assert unpack_flat(packed) == usual
    assert sections.source_section(usual, "") == METADATA_ONLY + packed
    assert pack_flat({"channels": ["red", "green"]}) is None
    assert unpack_flat(b"\x81\xa1a\x90") is None
