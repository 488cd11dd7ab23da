"""Property of an engine's description: its labels say all of it, and labels of others change nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harmonicio.control.engine_description import (
    PREFIX,
    EngineDescription,
    ParameterDescription,
    from_labels,
    to_labels,
)

texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
parameters = st.dictionaries(texts, st.builds(ParameterDescription, texts, st.booleans(), values), max_size=3)
descriptions = st.builds(EngineDescription, texts, texts, texts, texts, texts, parameters)
foreign = st.dictionaries(texts.filter(lambda name: not name.startswith(PREFIX)), texts, max_size=3)


@given(descriptions, foreign)
def test_a_description_reads_from_its_labels_as_it_was(description: EngineDescription, others: dict[str, str]) -> None:
    labels = to_labels(description)
    assert from_labels({**others, **labels}) == description
    assert all(type(text) is str for text in labels.values())
