"""What every interestingness function must do: inherit :class:`InterestingnessSuite` and say how one is declared.

class TestMyFunction(InterestingnessSuite):
    options = {"name": "mine", "slope": 2.0}
    features = ("sharpness",)          # what it needs
"""

from __future__ import annotations

import math
import random
import sys
from abc import ABC
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from harmonicio.core.errors import ConfigurationError
from harmonicio.haste.interestingness.base import InterestingnessFunction, create_function

_RANDOM = random.Random(20180712)
#: Numbers of every size, and those at which functions break.
VALUES = (
    *(0.0, -0.0, 0.25, 0.5, 1.0, 5e-324, 1e-300, 709.0, 710.0, 1e300, sys.float_info.max),
    *(-0.25, -0.5, -1.0, -5e-324, -1e-300, -709.0, -710.0, -1e300, -sys.float_info.max),
    *(_RANDOM.choice((-1, 1)) * 10 ** _RANDOM.uniform(-6, 6) for _ in range(200)),
)


class InterestingnessSuite(ABC):
    """The contract of an interestingness function, as a declaration makes it.

    Attributes:
        options: As in a declaration, with ``name``.
        features: Names of the features that it looks at.
        metadata: What it needs of the metadata, if anything.
    """

    options: ClassVar[Mapping[str, Any]]
    features: ClassVar[tuple[str, ...]] = ()
    metadata: ClassVar[Mapping[str, Any]] = {}

    def function(self) -> InterestingnessFunction:
        return create_function(self.options)

    def test_every_number_has_a_score_between_nothing_and_all(self) -> None:
        function = self.function()
        for features in self._drawn():
            assert 0.0 <= function(features, self.metadata) <= 1.0, features

    def test_the_same_features_have_the_same_score(self) -> None:
        one, other = self.function(), self.function()
        for features in self._drawn():
            scores = one(features, self.metadata), one(features, self.metadata), other(features, self.metadata)
            assert len(set(scores)) == 1, features

    def test_it_changes_nothing_that_it_is_given(self) -> None:
        features, metadata = dict.fromkeys(self.features, 0.5), dict(self.metadata)
        self.function()(features, metadata)
        assert (features, metadata) == (dict.fromkeys(self.features, 0.5), self.metadata)

    def test_what_else_is_known_of_a_message_does_not_matter(self) -> None:
        function = self.function()
        for features in self._drawn():
            others = function({"another feature": 1.0} | features, {"another": "entry"} | dict(self.metadata))
            assert others == function(features, self.metadata), features

    def test_a_feature_that_is_not_a_number_gives_no_score(self) -> None:
        for unknown in self.features:
            features = dict.fromkeys(self.features, 0.5) | {unknown: math.nan}
            assert math.isnan(self.function()(features, self.metadata))

    def test_a_feature_that_is_missing_is_named(self) -> None:
        for missing in self.features:
            features = {name: 0.5 for name in self.features if name != missing}
            with pytest.raises(KeyError, match=missing):
                self.function()(features, self.metadata)

    def test_an_option_that_nobody_reads_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="no_such_option"):
            create_function({**self.options, "no_such_option": 1})

    def _drawn(self) -> Iterator[dict[str, float]]:
        """Yield features of all sizes, the same ones each time."""
        for number, value in enumerate(VALUES):
            yield {name: VALUES[(number + at) % len(VALUES)] if at else value for at, name in enumerate(self.features)}
