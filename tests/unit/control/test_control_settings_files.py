"""Where settings and tokens are found, and what is refused about their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmonicio.control.settings_files import TlsFiles, load_settings, read_token, token_file, write_token_file
from harmonicio.core.certificates import NO_TLS, TlsIdentity
from harmonicio.core.errors import ConfigurationError, NotAllowed
from harmonicio.core.roles import Role


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A user with an empty home folder, who stands in an empty working directory."""
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    monkeypatch.chdir(here)
    return {"HARMONICIO_HOME": str(home)}


def test_without_a_file_the_defaults_hold(environ: dict[str, str]) -> None:
    assert load_settings(environ=environ).origins == {}


def test_the_file_of_the_working_directory_comes_before_that_of_the_home_folder(environ: dict[str, str]) -> None:
    Path(environ["HARMONICIO_HOME"], "harmonicio.toml").write_text("[master]\nport = 1")
    assert load_settings(environ=environ).master.port == 1
    Path("harmonicio.toml").write_text("[master]\nport = 2")
    settings = load_settings(environ=environ)
    assert settings.master.port == 2
    assert settings.origins["master.port"] == str(Path("harmonicio.toml").absolute())


def test_a_named_file_that_is_missing_is_an_error(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"settings file nowhere\.toml cannot be read: No such file"):
        load_settings("nowhere.toml", environ)


def test_a_file_that_is_not_text_is_an_error(environ: dict[str, str]) -> None:
    Path("harmonicio.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_settings(environ=environ)


def test_a_file_that_is_far_too_large_is_not_read_whole(environ: dict[str, str]) -> None:
    Path("harmonicio.toml").write_bytes(b"#" * (1024**2 + 1))
    with pytest.raises(ConfigurationError, match="larger than 1 MiB"):
        load_settings(environ=environ)


def test_the_token_of_the_setting_comes_first(environ: dict[str, str]) -> None:
    settings = load_settings(environ=environ, flags={"client.token": "given"})
    write_token_file(token_file(settings, Role.SOURCE), "stored")
    assert read_token(settings, [Role.SOURCE]) == "given"


def test_the_named_token_file_comes_before_those_of_the_home_folder(environ: dict[str, str]) -> None:
    write_token_file(Path("my.token"), "mine")
    settings = load_settings(environ=environ, flags={"client.token_file": "my.token"})
    write_token_file(token_file(settings, Role.SOURCE), "stored")
    assert read_token(settings, [Role.SOURCE]) == "mine"


def test_the_first_role_that_has_a_token_file_is_used(environ: dict[str, str]) -> None:
    settings = load_settings(environ=environ)
    write_token_file(token_file(settings, Role.ADMIN), "admin's")
    assert read_token(settings, [Role.SOURCE, Role.ADMIN]) == "admin's"
    write_token_file(token_file(settings, Role.SOURCE), "source's")
    assert read_token(settings, [Role.SOURCE, Role.ADMIN]) == "source's"


def test_the_token_that_a_master_on_this_host_wrote_is_found(environ: dict[str, str], tmp_path: Path) -> None:
    settings = load_settings(environ=environ, flags={"master.data_folder": tmp_path / "m"})
    write_token_file(tmp_path / "m" / "tokens" / "viewer.token", "the master's")
    assert read_token(settings, [Role.ADMIN, Role.VIEWER]) == "the master's"
    write_token_file(token_file(settings, Role.VIEWER), "put here")
    assert read_token(settings, [Role.ADMIN, Role.VIEWER]) == "put here"


def test_without_a_token_the_error_says_where_one_belongs(environ: dict[str, str]) -> None:
    with pytest.raises(NotAllowed, match="no token for the master") as raised:
        read_token(load_settings(environ=environ), [Role.SOURCE, Role.ADMIN])
    assert f"{environ['HARMONICIO_HOME']}/tokens/source.token" in raised.value.hint


@pytest.mark.row("S26")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_token_file_that_others_can_read_is_refused(environ: dict[str, str], mode: int) -> None:
    settings = load_settings(environ=environ)
    path = token_file(settings, Role.ADMIN)
    write_token_file(path, "canary-secret")
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="can be read by other users") as raised:
        read_token(settings, [Role.ADMIN])
    assert raised.value.hint == f"Run: chmod 600 {path}"
    assert "canary" not in str(raised.value)


@pytest.mark.row("S26")
def test_a_settings_file_that_holds_a_token_and_that_others_can_read_is_refused(environ: dict[str, str]) -> None:
    Path("harmonicio.toml").write_text("[client]\ntoken = 'canary-secret'")
    Path("harmonicio.toml").chmod(0o644)
    with pytest.raises(ConfigurationError, match="settings file with a token"):
        read_token(load_settings(environ=environ), [Role.ADMIN])
    Path("harmonicio.toml").chmod(0o600)
    assert read_token(load_settings(environ=environ), [Role.ADMIN]) == "canary-secret"


@pytest.mark.parametrize("content", [b"", b"\n", b"two words\nand lines", "schlüssel".encode()])
def test_a_file_without_a_token_in_it_is_refused(environ: dict[str, str], content: bytes) -> None:
    path = Path("my.token")
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="does not hold a token"):
        read_token(load_settings(environ=environ, flags={"client.token_file": path}), [Role.ADMIN])


def test_a_written_token_file_is_private_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "tokens" / "admin.token"
    write_token_file(path, "first")
    write_token_file(path, "second")
    assert path.read_text() == "second\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tls_folder(environ: dict[str, str]) -> Path:
    folder = Path("tls").absolute()
    folder.mkdir()
    for name in ("certificate", "key", "authority"):
        (folder / name).write_text(f"the {name}")
        (folder / name).chmod(0o600)
        environ[f"HARMONICIO_TLS_{name.upper()}"] = str(folder / name)
    return folder


def test_certificate_key_and_authority_are_read_from_the_files_that_the_settings_name(
    environ: dict[str, str], tls_folder: Path
) -> None:
    assert TlsFiles(load_settings(environ=environ).tls).read() == TlsIdentity(
        "the certificate", "the key", "the authority"
    )
    for name in ("CERTIFICATE", "KEY"):
        del environ[f"HARMONICIO_TLS_{name}"]
    assert TlsFiles(load_settings(environ=environ).tls).read() == TlsIdentity(authority="the authority")
    assert TlsFiles(load_settings(environ={"HARMONICIO_HOME": environ["HARMONICIO_HOME"]}).tls).read() == NO_TLS


@pytest.mark.parametrize("missing", ["CERTIFICATE", "KEY"])
def test_a_certificate_without_a_key_is_refused_and_a_key_without_a_certificate(
    environ: dict[str, str], tls_folder: Path, missing: str
) -> None:
    del environ[f"HARMONICIO_TLS_{missing}"]
    with pytest.raises(ConfigurationError, match="belong together") as raised:
        TlsFiles(load_settings(environ=environ).tls).read()
    assert "tls.certificate and tls.key" in raised.value.hint


@pytest.mark.row("S26")
def test_a_tls_key_that_others_can_read_is_refused(environ: dict[str, str], tls_folder: Path) -> None:
    (tls_folder / "key").chmod(0o640)
    with pytest.raises(ConfigurationError, match=r"TLS key .* can be read by other users"):
        TlsFiles(load_settings(environ=environ).tls).read()


def test_a_certificate_that_is_not_there_is_named(environ: dict[str, str], tls_folder: Path) -> None:
    (tls_folder / "authority").unlink()
    with pytest.raises(ConfigurationError, match=r"file of tls\.authority .*/authority cannot be read"):
        TlsFiles(load_settings(environ=environ).tls).read()
