"""What parts of the playbooks do on a host, without one: their own templates, written here, and their tasks, read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY, PACKAGE = "deploy/ansible", "ansible.builtin.package"


def play(folder: Path, plays: list[dict[str, Any]], hosts: dict[str, Any]) -> None:
    """Run plays here, as if this host were each of those."""
    (folder / "play.json").write_text(json.dumps(plays))
    (folder / "inventory.json").write_text(json.dumps(hosts))
    words = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory.json", "play.json"]
    local = {"ANSIBLE_LOCAL_TEMP": str(folder / "ansible"), "ANSIBLE_REMOTE_TEMP": str(folder / "ansible")}
    path = f"{folder}:{os.environ['PATH']}"
    run = subprocess.run(
        [*words, "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"],
        cwd=folder,
        env={**os.environ, **local, "PATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


@pytest.mark.parametrize("keeper", ["w1", "other"])
def test_the_load_of_every_host_is_asked_for(repository: Path, tmp_path: Path, keeper: str) -> None:
    template = repository / DEPLOY / "roles/monitoring/templates/prometheus.yaml.j2"
    defaults = yaml.safe_load((repository / DEPLOY / "roles/settings/defaults/main.yaml").read_text())
    known = {name: defaults[name] for name in ("harmonicio_exporter_port", "harmonicio_scrape_s")}
    task = {"ansible.builtin.template": {"src": str(template), "dest": str(tmp_path / "written.yaml")}}
    hosts = {
        "master": {"hosts": {"m": {"ansible_host": "192.0.2.1"}}},
        "workers": {"hosts": {"w1": {"ansible_host": "192.0.2.2"}}},
        "monitoring": {"hosts": {keeper: {}}},
    }
    play(tmp_path, [{"hosts": keeper, "gather_facts": False, "vars": known, "tasks": [task]}], hosts)
    (job,) = yaml.safe_load((tmp_path / "written.yaml").read_text())["scrape_configs"]
    asked = {each["labels"]["host"]: each["targets"] for each in job["static_configs"]}
    assert asked == {
        "m": ["192.0.2.1:9100"],
        "w1": ["192.0.2.2:9100"],
        **({} if keeper == "w1" else {"other": ["other:9100"]}),
    }


def tasks_of(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield tasks, those in blocks too."""
    for each in tasks:
        yield each
        yield from tasks_of(each.get("block", []))


def test_a_host_whose_lists_of_packages_are_empty_fetches_them_first(repository: Path) -> None:
    files = (repository / DEPLOY).glob("roles/*/tasks/*.yaml")
    tasks = [task for file in files for task in tasks_of(yaml.safe_load(file.read_text()))]
    installing = [task[name] for task in tasks for name in task if name in ("ansible.builtin.apt", PACKAGE)]
    assert len(installing) >= 4
    assert all(each.get("update_cache") for each in installing), installing
