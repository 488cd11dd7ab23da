"""How the sources of settings are joined, and what is said about those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmonicio.core.errors import ConfigurationError
from harmonicio.core.settings import MASK, ChecksumMode, Settings, describe, resolve

ENVIRON = {"HOME": "/home/ada"}


def resolved(toml: str = "", *, flags: dict[str, object] | None = None, **variables: str) -> Settings:
    return resolve(toml, ENVIRON | variables, flags or {}, file="/etc/lab/harmonicio.toml")


def test_without_any_source_everything_has_its_default() -> None:
    settings = resolved()
    assert settings.master.url == "http://127.0.0.1:8710"
    assert settings.connector.byte_budget_bytes == 256 * 1024**2
    assert settings.connector.patience_s is None
    assert settings.client.token_file is None
    assert settings.origins == {}


def test_default_folders_lie_in_the_home_folder() -> None:
    assert resolved().master.data_folder == Path("/home/ada/.harmonicio/master")
    assert resolved(HARMONICIO_HOME="/srv/hio").worker.scratch_folder == Path("/srv/hio/scratch")


def test_the_environment_wins_over_the_file_and_flags_win_over_both() -> None:
    toml = "[master]\nport = 1\ndata_port = 2\nhost = '::1'"
    settings = resolved(
        toml, HARMONICIO_MASTER_PORT="3", HARMONICIO_MASTER_DATA_PORT="4", flags={"master.data_port": 5}
    )
    assert (settings.master.host, settings.master.port, settings.master.data_port) == ("::1", 3, 5)


def test_each_value_remembers_its_origin() -> None:
    settings = resolved("[master]\nport = 1", HARMONICIO_WORKER_NAME="w1", flags={"master.data_port": 0})
    assert settings.origins == {
        "master.port": "/etc/lab/harmonicio.toml",
        "worker.name": "HARMONICIO_WORKER_NAME",
        "master.data_port": "argument",
    }
    assert {view.name: view.origin for view in describe(settings)}["master.url"] == "default"


def test_a_flag_that_was_not_given_changes_nothing() -> None:
    assert resolved("[master]\nport = 7", flags={"master.port": None}).master.port == 7


@pytest.mark.parametrize(
    ("toml", "variables", "flags", "hint"),
    [
        ("[master]\nprot = 1", {}, {}, "Did you mean 'master.port'?"),
        ("[mastre]\nport = 1", {}, {}, "Did you mean 'master'?"),
        ("port = 1", {}, {}, "Known are client, connector, docker, master, tls, worker."),
        ("", {"HARMONICIO_MASTER_PROT": "1"}, {}, "Did you mean 'HARMONICIO_MASTER_PORT'?"),
        ("", {}, {"connector.checksums": "auto"}, "Did you mean 'connector.checksum'?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(
    toml: str, variables: dict[str, str], flags: dict[str, object], hint: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        resolved(toml, flags=flags, **variables)
    assert raised.value.hint == hint


@pytest.mark.parametrize(
    ("name", "given", "meaning"),
    [
        ("connector.byte_budget_bytes", "1.5 GB", 1_500_000_000),
        ("connector.byte_budget_bytes", 4096, 4096),
        ("connector.checksum", "never", ChecksumMode.NEVER),
        ("connector.patience_s", "0.25", 0.25),
        ("connector.patience_s", 2, 2.0),
        ("master.insecure", "yes", True),
        ("master.insecure", False, False),
        ("master.url", "https://lab.example:8710/", "https://lab.example:8710"),
        ("worker.scratch_folder", "~/fast", Path("/home/ada/fast")),
        ("worker.max_engines", "4", 4),
    ],
)
def test_values_are_read_from_text_and_from_typed_sources(name: str, given: object, meaning: object) -> None:
    section, _, key = name.partition(".")
    assert getattr(getattr(resolved(flags={name: given}), section), key) == meaning


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("master.port", 65536),
        ("master.port", -1),
        ("master.port", True),
        ("master.port", "http"),
        ("master.port", 80.5),
        ("master.insecure", "maybe"),
        ("master.url", "127.0.0.1:8710"),
        ("master.data_folder", ""),
        ("master.data_folder", "a\0b"),
        ("master.backlog_max_disk_bytes", 0),
        ("connector.byte_budget_bytes", "256 mebi"),
        ("connector.byte_budget_bytes", ["1"]),
        ("connector.checksum", "sometimes"),
        ("connector.checksum", ["auto"]),
        ("connector.patience_s", "nan"),
        ("connector.patience_s", True),
        ("connector.patience_s", -0.1),
        ("worker.name", 3),
        ("worker.name", "two\nlines"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_what_can(name: str, given: object) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be .* \(argument\)") as raised:
        resolved(flags={name: given})
    assert raised.value.text.startswith(name)
    assert raised.value.hint.startswith("Use ")


def test_relative_paths_in_the_file_are_relative_to_its_folder_and_others_to_the_working_directory() -> None:
    settings = resolved("[worker]\ndata_folder = 'state'", HARMONICIO_WORKER_SCRATCH_FOLDER="scratch")
    assert settings.worker.data_folder == Path("/etc/lab/state")
    assert settings.worker.scratch_folder == Path("scratch")


def test_text_that_is_not_toml_is_refused_with_the_name_of_the_file() -> None:
    with pytest.raises(ConfigurationError, match=r"/etc/lab/harmonicio.toml is not TOML: Expected"):
        resolved("[master")


def test_secrets_are_never_shown() -> None:
    shown = {view.name: view.value for view in describe(resolved(HARMONICIO_CLIENT_TOKEN="canary-secret"))}
    assert shown["client.token"] == MASK
    assert "canary-secret" not in str(shown)
    assert {view.name: view.value for view in describe(resolved())}["client.token"] == ""


def test_a_secret_that_cannot_be_used_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ConfigurationError) as raised:
        resolved(HARMONICIO_CLIENT_TOKEN="canary\nsecret")
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(
    ("toml", "url"),
    [
        ("", "http://127.0.0.1:8710"),
        ("[master]\nport = 9000", "http://127.0.0.1:9000"),
        ("[master]\nhost = '0.0.0.0'", "http://127.0.0.1:8710"),
        ("[master]\nhost = '::1'\nport = 7", "http://[::1]:7"),
        ("[master]\nport = 0", "http://127.0.0.1:8710"),
        ("[master]\nport = 9000\nurl = 'http://lab:1'", "http://lab:1"),
    ],
)
def test_a_master_on_this_host_is_found_where_it_listens(toml: str, url: str) -> None:
    assert resolved(toml).master.url == url
