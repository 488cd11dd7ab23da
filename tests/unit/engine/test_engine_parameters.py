"""A stream's parameters are the keyword-only arguments of its handler and setup, checked once and bound by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Optional

import pytest

from harmonicio.core.errors import ConfigurationError
from harmonicio.engine.handler import Handler
from harmonicio.engine.parameters import bind, parameters_of

if TYPE_CHECKING:
    from only_a_type_checker_sees import This

Size = int | None


def handler_of(function: Callable[..., Any], setup: Callable[..., Any] | None = None) -> Handler:
    return Handler(function, setup, None, False, "engine.py")


def gfp(message: This, *, threshold: float = 1.0, mode: str) -> Any:
    return message, threshold, mode


def test_parameters_are_bound_by_name_and_what_is_not_declared_has_its_default() -> None:
    function, setup = bind(handler_of(gfp), {"mode": "sum"})
    assert setup is None
    assert function("m") == ("m", 1.0, "sum")
    assert bind(handler_of(gfp), {"mode": "sum", "threshold": 3})[0]("m") == ("m", 3, "sum")


def test_a_handler_without_parameters_is_called_as_it_is() -> None:
    def plain(message: Any) -> Any:
        return message

    assert bind(handler_of(plain), {}) == (plain, None)


def test_the_setup_takes_its_own_and_both_take_what_both_name() -> None:
    def prepare(*, weights: str, side_px: int) -> Any:
        return weights, side_px

    def classify(message: Any, model: Any, *, side_px: int) -> Any:
        return model, side_px

    function, setup = bind(handler_of(classify, prepare), {"weights": "w.bin", "side_px": 5})
    assert setup is not None
    assert function("m", setup()) == (("w.bin", 5), 5)


def test_a_setup_with_an_argument_by_position_gets_the_table_of_all() -> None:
    def prepare(parameters: Mapping[str, Any], *, a: int) -> Any:
        return dict(parameters), a

    def use(message: Any, state: Any, *, b: int = 0) -> Any:
        return state, b

    function, setup = bind(handler_of(use, prepare), {"a": 1, "b": 2, "c d": 3})
    assert setup is not None
    assert function("m", setup()) == (({"a": 1, "b": 2, "c d": 3}, 1), 2)


@pytest.mark.parametrize(("setup", "made"), [(dict, {"k": 1}), (lambda *all_of_it: all_of_it, ({"k": 1},))])
def test_a_setup_that_does_not_tell_its_arguments_gets_the_table(setup: Any, made: Any) -> None:
    _, bound = bind(handler_of(lambda message, state: None, setup), {"k": 1})
    assert bound is not None
    assert bound() == made


def test_what_no_argument_names_goes_to_the_rest() -> None:
    def run(message: Any, *, a: int, **rest: Any) -> Any:
        return a, rest

    function, _ = bind(handler_of(run), {"a": 1, "b": 2, "c-d": 3})
    assert function("m") == (1, {"b": 2, "c-d": 3})
    with pytest.raises(ConfigurationError, match="'message' is unknown"):
        bind(handler_of(run), {"a": 1, "message": 2})


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ({}, r"'mode' of the handler gfp in engine\.py is missing\. It may be: str\."),
        ({"mode": 3}, r"'mode' of the handler gfp in engine\.py cannot be 3\. It may be: str\."),
        ({"mode": "a", "threshold": "2.5"}, r"'threshold' of the handler gfp .* cannot be '2\.5'\. It may be: float\."),
        ({"mode": "a", "treshold": 2}, r"'treshold' is unknown to .* It takes threshold: float = 1\.0; mode: str\."),
        ({"mode": "a", "x" * 10_000: 2}, r"'x{80}' is unknown"),
    ],
)
def test_what_does_not_fit_is_refused_with_handler_parameter_and_what_it_may_be(
    declared: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        bind(handler_of(gfp), declared)


def test_a_handler_without_parameters_says_what_one_would_be() -> None:
    with pytest.raises(ConfigurationError, match=r"It takes none; one is an argument after a star"):
        bind(handler_of(lambda message, threshold=1.0: None), {"threshold": 2})


class Anything:
    pass


@pytest.mark.parametrize(
    ("annotation", "fitting", "unfitting"),
    [
        (int, [0, -5], [True, 1.0, "1", None]),
        (float, [1.5, 2], [True, "1.5", None]),
        (str, ["", "x"], [1, ["x"], None]),
        (bool, [True], [1, 0, "yes"]),
        (list, [[], [1, "a"]], ["abc", {}, 1]),
        (list[int], [[], [1, 2]], [["a"], [True], "1"]),
        (dict, [{}, {"a": 1}], [[], "a"]),
        (dict[str, float], [{}, {"a": 1}], [{"a": "b"}]),
        (int | None, [None, 1], ["1", 1.5]),
        (Optional[list[str]], [None, ["a"]], [[1], "a"]),  # noqa: UP045  as users write it
        (int | Anything, [1, "whatever"], []),
        (Anything, [1, "whatever", None], []),
        ("Size", [None, 1], ["1"]),
        ("list[int] | str", [[1], "a"], [["a"], 1]),
        ("NotThere", [1, "whatever"], []),
        ("broken(", [1], []),
        ("None", [None], [0]),
    ],
    ids=str,
)
def test_a_value_must_fit_an_annotation_of_plain_types(
    annotation: Any, fitting: list[Any], unfitting: list[Any]
) -> None:
    def run(message: Any, *, it: Any) -> Any:
        return it

    run.__annotations__["it"] = annotation
    for value in fitting:
        assert bind(handler_of(run), {"it": value})[0]("m") is value
    for value in unfitting:
        with pytest.raises(ConfigurationError, match="'it' of the handler run"):
            bind(handler_of(run), {"it": value})


def test_parameters_are_found_behind_a_decorator_and_in_a_partial() -> None:
    @functools.wraps(gfp)
    def logged(*arguments: Any, **named: Any) -> Any:
        return gfp(*arguments, **named)

    assert [str(each) for each in parameters_of(handler_of(logged))] == ["threshold: float = 1.0", "mode: str"]
    assert bind(handler_of(logged), {"mode": "sum"})[0]("m") == ("m", 1.0, "sum")
    half = functools.partial(gfp, mode="sum")
    assert bind(handler_of(half), {"threshold": 2.0})[0]("m") == ("m", 2.0, "sum")
