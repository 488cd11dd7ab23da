"""Passwords and tokens in texts and options of others are hidden, and what is none is not."""

from __future__ import annotations

import time

import pytest

from harmonicio.core.hidden import HIDDEN, options_without_secrets, without_secrets

pytestmark = pytest.mark.row("S20")

CANARY = "hunter2-Canary_0123456789"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            f"no answer from postgresql://haste:{CANARY}@db:5432/f",
            f"no answer from postgresql://haste:{HIDDEN}@db:5432/f",
        ),
        (f"mongodb://:{CANARY}@db,other/f", f"mongodb://:{HIDDEN}@db,other/f"),
        (f"https://user:{CANARY}:with@signs@host/path", f"https://user:{HIDDEN}@host/path"),
        (f"host=db user=haste password={CANARY} port=1", f"host=db user=haste password={HIDDEN} port=1"),
        (f"connect(password='x', aws_secret_access_key={CANARY})", f"aws_secret_access_key={HIDDEN})"),
        (f"GET /b/k?X-Amz-Signature={CANARY}&X-Amz-Date=1", f"GET /b/k?X-Amz-Signature={HIDDEN}&X-Amz-Date=1"),
        (f"Authorization: Bearer {CANARY}", f"Authorization: Bearer {HIDDEN}"),
        (f"the token hio_admin_{CANARY} is not known", f"the token hio_admin_{HIDDEN} is not known"),
    ],
)
def test_a_password_in_a_text_is_hidden_and_what_stands_around_it_is_not(text: str, shown: str) -> None:
    assert without_secrets(text).endswith(shown)
    assert CANARY not in without_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://127.0.0.1:8710/api/v1/streams",
        "s3://bucket/key@version",
        "https://host:443/path?at=a:b@c",
        "ssh://git@host/x",
        "mail to a:b@c",
        "The token is not known.",
        "a bearer of news",
        "password: see the manual",
    ],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert without_secrets(text) == text


def test_options_keep_their_shape_without_the_values_whose_names_say_that_they_are_secret() -> None:
    tier = {"driver": "s3", "bucket": "b", "access_key": CANARY, "secret_key": CANARY, "session_token": [CANARY]}
    options = {
        "function": {"name": "precomputed", "key": "score"},
        "policy": {"intervals": [[0, 0.5, "kept"]]},
        "tiers": {"kept": tier},
        "feature_db": {"url": f"postgresql://haste:{CANARY}@db/f", "password": CANARY, "retries": 3},
    }
    shown = options_without_secrets(options)
    assert CANARY not in str(shown)
    assert shown["function"] == options["function"] and shown["policy"] == options["policy"]
    assert shown["tiers"]["kept"] == {
        "driver": "s3",
        "bucket": "b",
        "access_key": HIDDEN,
        "secret_key": HIDDEN,
        "session_token": HIDDEN,
    }
    assert shown["feature_db"] == {"url": f"postgresql://haste:{HIDDEN}@db/f", "password": HIDDEN, "retries": 3}


HARD = ["://" * 300_000, "a" * 10**6, "://a:" * 200_000, "://" + "a:" * 400_000, "hio_" * 250_000]


@pytest.mark.parametrize("text", HARD, ids=["places", "letters", "users", "one user", "tokens"])
def test_a_text_that_is_made_to_be_hard_takes_no_longer_than_others(text: str) -> None:
    began = time.process_time()
    without_secrets(text)
    assert time.process_time() - began < 2
