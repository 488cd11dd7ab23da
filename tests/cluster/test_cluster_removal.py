"""What a site does rarely: engines in containers, and the end of a cluster.

The tests build on each other, in this order; they leave machines on which nothing is installed.
"""

from __future__ import annotations

import shlex

import pytest
from cluster.machines import Machines
from cluster.site import GIVEN, Site, tell

pytestmark = pytest.mark.timeout(600)

IMAGE = "harmonicio-test/look"
CODE = """\
import hashlib
from harmonicio.engine import handler

@handler
def look(message):
    return {"head": int(hashlib.sha256(message.payload).hexdigest()[:12], 16)}
"""
DATA = "/var/lib/harmonicio"


#: What a machine may still have of HarmonicIO, and how it is asked for that.
QUESTIONS = {
    "files": "find / -xdev -iname '*harmonicio*' -prune -print",
    "units": "for what in units unit-files; do systemctl --all --no-legend list-$what 'harmonicio*'; done",
    "users": "grep -h ^harmonicio: /etc/passwd /etc/group",
    "processes": "ps -eo args= | grep '[/]opt/harmonicio'",
    "containers": "docker ps --all --quiet --filter label=io.harmonicio.worker",
}


def left_on(machines: Machines, name: str) -> dict[str, list[str]]:
    answers = {kind: machines.ssh(name, asked, check=False).stdout for kind, asked in QUESTIONS.items()}
    return {kind: answer.splitlines() for kind, answer in answers.items() if answer}


def test_a_worker_with_the_runtime_docker_runs_engines_from_images_beside_one_without(
    machines: Machines, cluster: Site
) -> None:
    script = (GIVEN / "engine_image.sh").read_text()
    machines.ssh("host3", f"bash -c {shlex.quote(script)} engine_image.sh {IMAGE} {shlex.quote(CODE)}")
    cluster.scale(plates=2)
    docker = {"images": ["harmonicio-test/*"], "pull_timeout_s": 0}
    settings = {"harmonicio_runtime": "docker", "harmonicio_settings": {"docker": docker}}
    cluster.play("site.yaml", "--limit", "host1,host3", **settings)
    cluster.command("stream", "apply", str(GIVEN / "boxed.toml"))
    cluster.wait_for_engines("boxed", host3=2)
    cluster.wait_for_engines("plates", host2=2)
    with cluster.sending(100, per_s=50, stream="boxed") as source:
        said = source.finish()
    assert len(machines.ssh("host3", "docker ps -q").stdout.split()) == 2
    tell(f"two engines in containers: {said['states']['done']} of {said['sent']} done")
    machines.ssh("host3", f"docker create --name somebodys --label io.harmonicio.worker=0123456789abcdef {IMAGE}")


def test_a_cluster_that_is_removed_leaves_its_data_and_when_these_go_nothing(machines: Machines, site: Site) -> None:
    if not site.is_installed:
        site.play()
    # Engines outlive a worker that is killed, and now nobody is left to end them.
    for name in ("host2", "host3"):
        machines.ssh(name, "systemctl kill --signal=KILL --kill-who=main harmonicio-worker")
        machines.ssh(name, "systemctl stop harmonicio-worker")
    assert "processes" in left_on(machines, "host2")
    others = machines.ssh("host3", "docker ps --all --quiet --filter name=somebodys", check=False).stdout.split()
    site.play("uninstall.yaml")
    for name in machines.names:
        left = left_on(machines, name)
        assert left.pop("containers", []) == others * (name == "host3"), "another worker's stays"
        monitoring = ["/var/lib/harmonicio-prometheus"] * (name == "host1")
        assert sorted(left.pop("files")) == [DATA, *monitoring] and len(left.pop("users")) == 2
        assert left == {}
    assert machines.ssh("host1", f"ls {DATA}/master").stdout.split()
    machines.ssh("host3", "docker rm somebodys", check=bool(others))
    site.play("uninstall.yaml", harmonicio_remove_data=True)
    assert {name: left_on(machines, name) for name in machines.names} == {name: {} for name in machines.names}
    tell("removed: data stay until they are to be removed as well; then nothing is left")
