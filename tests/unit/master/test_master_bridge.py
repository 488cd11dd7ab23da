"""Which bridges lead out of this host, by what the kernel says of their members."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmonicio.master import bridge


@pytest.mark.row("S6")
@pytest.mark.parametrize(
    ("name", "text", "is_inner"),
    [
        ("uevent", "INTERFACE=veth1\nIFINDEX=4\n", True),
        ("uevent", "DEVTYPE=vxlan\nINTERFACE=vx1\nIFINDEX=4\n", False),
        ("tun_flags", "0x1002\n", False),
    ],
    ids=["container", "tunnel between hosts", "tunnel of a program"],
)
def test_a_bridge_with_a_tunnel_is_none_of_containers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, is_inner: bool
) -> None:
    monkeypatch.setattr(bridge, "_DEVICES", tmp_path)
    for path in ("br0/bridge", "br0/brif/member", "member"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "member" / name).write_text(text)
    assert bridge._is_inner(tmp_path / "br0") is is_inner
