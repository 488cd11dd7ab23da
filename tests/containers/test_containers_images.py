"""Which image runs, and that it is known of every result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.stream import StreamDeclaration
from harmonicio.haste.feature_db.base import RowFilter
from harmonicio.haste.feature_db.master import MasterFeatureDatabase
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.containers.docker_host import DockerHost

HANDLER = """
    from harmonicio.engine import handler

    @handler
    def version(message):
        return {{"version": {version}}}
"""


@pytest.fixture
def build_version(engine_image: Callable[[str, str], str]) -> Callable[[int], str]:
    """Build a version of one engine; all have the same name and tag."""
    return lambda version: engine_image("versioned", HANDLER.format(version=version))


def haste(folder: Path) -> dict[str, Any]:
    return {
        "function": {"name": "feature", "feature": "version", "highest": 10},
        "policy": {"intervals": [[0, 1, "kept"]]},
        "tiers": {name: {"folder": str(folder / name)} for name in ("kept", "unscored")},
    }


def images(cluster: LocalCluster) -> list[str]:
    return [each.image for each in cluster.client.engines()]


def test_the_digest_of_the_image_is_recorded_with_every_result(
    cluster: LocalCluster,
    connect: Callable[..., StreamConnector],
    build_version: Callable[[int], str],
    docker_host: DockerHost,
    tmp_path: Path,
) -> None:
    image = build_version(1)
    cluster.declare(StreamDeclaration("s", image=image, plugins={"haste": haste(tmp_path / "tiers")}))
    cluster.wait_for_engines("s", 1)
    with connect("s") as connector:
        connector.send(b"x").result(30)
    (row,) = MasterFeatureDatabase(cluster.client).rows(RowFilter("s"))
    assert row.image == docker_host.image(image).id == images(cluster)[0]


def test_a_tag_that_moves_changes_no_stream_until_it_is_scaled_to_nothing_and_back(
    cluster: LocalCluster, connect: Callable[..., StreamConnector], build_version: Callable[[int], str]
) -> None:
    image = build_version(1)
    cluster.declare(StreamDeclaration("s", image=image))
    cluster.wait_for_engines("s", 1)
    (first,) = images(cluster)
    assert build_version(2) == image
    cluster.client.scale_stream("s", 2)
    (trouble,) = wait_until(lambda: cluster.client.workers()[0].troubles, 30)
    assert f"the stream's engines run {first}" in trouble.text
    assert images(cluster)[0] == first
    cluster.client.scale_stream("s", 0)
    wait_until(lambda: not cluster.client.engines(), 30)
    cluster.client.scale_stream("s", 2)
    cluster.wait_for_engines("s", 2)
    assert len(set(images(cluster))) == 1
    assert images(cluster)[0] != first
    with connect("s") as connector:
        assert connector.send(b"x").result(30) == {"version": 2}


def test_the_same_image_by_digest_gives_the_same_results_to_an_unchanged_source(
    cluster: LocalCluster,
    connect: Callable[..., StreamConnector],
    build_version: Callable[[int], str],
    docker_host: DockerHost,
) -> None:
    image = build_version(3)
    by_digest = f"{image}@{docker_host.image(image).id}"
    for stream, name in (("mine", image), ("theirs", by_digest)):
        cluster.declare(StreamDeclaration(stream, image=name))
        cluster.wait_for_engines(stream, 1)
    results = []
    for stream in ("mine", "theirs"):
        with connect(stream) as connector:
            results.append(connector.send(b"x").result(30))
    assert results[0] == results[1] == {"version": 3}
    assert len(set(images(cluster))) == 1
