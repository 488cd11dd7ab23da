"""Labels that describe no engine are refused with the label's name and what to do."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from harmonicio.control.engine_description import (
    PREFIX,
    EngineDescription,
    ParameterDescription,
    from_labels,
    to_labels,
)
from harmonicio.core.errors import InvalidInput

LABELS = to_labels(
    EngineDescription("gfp_sum", "1.2", parameters={"threshold": ParameterDescription("float", False, 1.0)})
)


def test_the_labels_are_texts_under_one_prefix() -> None:
    assert LABELS[f"{PREFIX}name"] == "gfp_sum"
    assert LABELS[f"{PREFIX}protocol"] == "1"
    assert LABELS[f"{PREFIX}parameters"] == '{"threshold":{"type":"float","is_required":false,"default":1.0}}'
    assert sorted(name.removeprefix(PREFIX) for name in LABELS) == [
        "description",
        "name",
        "parameters",
        "protocol",
        "returns",
        "takes",
        "version",
    ]


@pytest.mark.parametrize("name", LABELS)
def test_a_label_that_is_missing_is_named(name: str) -> None:
    labels: dict[str, Any] = {key: text for key, text in LABELS.items() if key != name}
    for without in (labels, {**labels, name: None}):
        with pytest.raises(InvalidInput, match=rf"{name} is missing\. Give the image the labels that this prints"):
            from_labels(without)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "[" * 100_000, '{"a": 1}', '{"a": {}}', '{"a": {"type": "int", "is_required": 1}}'),
        '{"a": {"type": "float", "is_required": false, "default": NaN}}',
    ],
    ids=range(9),
)
def test_broken_parameters_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"engine\.parameters cannot be used: .* Give the image the labels"):
        from_labels({**LABELS, f"{PREFIX}parameters": text})


@pytest.mark.parametrize("protocol", ["2", "", "one"])
def test_an_engine_of_another_protocol_is_refused(protocol: str) -> None:
    with pytest.raises(InvalidInput, match=rf"speaks protocol '{protocol}', and this HarmonicIO speaks 1"):
        from_labels({**LABELS, f"{PREFIX}protocol": protocol})


def test_a_default_that_json_does_not_have_is_refused_when_it_is_written() -> None:
    with pytest.raises(InvalidInput, match="cannot be written as JSON"):
        to_labels(EngineDescription("e", parameters={"a": ParameterDescription("", False, {1, 2})}))


def test_a_description_is_read_with_the_standard_library_alone() -> None:
    program = (
        "import sys, harmonicio.control.engine_description; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert set(run.stdout.split()) - set(sys.stdlib_module_names) <= {"harmonicio", "__main__"}, run.stderr
