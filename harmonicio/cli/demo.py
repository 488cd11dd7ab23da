"""``harmonicio demo``: the main job from end to end, on real micrographs.

sample ──calibrate──► streams declared ──► half sent as engines take it, half in a burst ──► engines
                                                                                               │
                          tier table, routes, lost = 0, report ◄──read back and checked── tiers and feature rows
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import typer
from scipy.stats import spearmanr

from harmonicio.cli import console, invocation, logs
from harmonicio.cli.demo_images import DemoImage, own_images, shipped_images
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.core.errors import HarmonicIOError, InvalidInput, NotFound
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.haste.calibration import MIN_SAMPLE, calibrate
from harmonicio.haste.feature_db.base import FeatureRow, RowFilter
from harmonicio.haste.feature_db.master import MasterFeatureDatabase
from harmonicio.haste.features.image_quality import PLLS, power_log_log_slope
from harmonicio.haste.features.images import decode, grey
from harmonicio.haste.reports.declared import hierarchy_of, payload_reader
from harmonicio.haste.reports.report import ReportOptions, write_report
from harmonicio.haste.reports.summary import Traffic
from harmonicio.haste.storage_client import UNSCORED
from harmonicio.haste.tiers.base import Tier, create_tiers
from harmonicio.stream_connector import Delivery, StreamConnector
from harmonicio.stream_connector.progress import Progress
from harmonicio.worker.options import WorkerOptions

TIERS = ("D", "C", "B", "A")
SAMPLE_IMAGES = 24
#: So many images without a score are named with the reason; the report has all.
NAMED_UNSCORED = 20
#: In the output folder: a demonstration made it.
MARK = ".harmonicio-demo"
ENGINES = 2
#: While images are sent at the pace of the engines, so many are under way.
UNDER_WAY = 2 * ENGINES
#: The scores of the shipped images must fall with their known blur at least this clearly (Spearman).
MAX_CORRELATION = -0.9


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was read back: sent messages that have no row, or whose payload is not where the row says."""

    sent: int
    processed: int
    lost: tuple[str, ...]


def run(
    context: typer.Context,
    images: Path | None = typer.Option(None, help="A folder with your own TIFF and PNG files."),
    shipped: Path = typer.Option(Path("examples/images"), help="Where the images that come with HarmonicIO are."),
    handler: Path = typer.Option(Path("processing_engines/image_quality/engine.py"), help="The engine's handler."),
    output: Path = typer.Option(Path("demo-output"), help="Folder for tiers and report; replaced at each run."),
    runtime: str = typer.Option("process", help="What starts the engines: process, or docker."),
    image: str = typer.Option("harmonicio/image_quality", help="The engine's image, for the runtime docker."),
) -> None:
    """Stream micrographs through two engines on this machine and sort them by focus."""
    logs.start("WARNING")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # What it cannot read is named with a reason of ours.
    if not handler.is_file():
        raise InvalidInput(f"There is no handler {handler}.", hint="Run this in the repository, or give --handler.")
    docker = invocation.of(context).settings().docker
    if runtime == "docker":
        _check_image(docker, image)
    console.say("Reading the images …")
    chosen = _alternating(own_images(images) if images is not None else shipped_images(shipped))
    folder = output.resolve()
    code = {"image": image} if runtime == "docker" else {"handler": str(handler.resolve())}
    declarations = _declarations(chosen, code, folder)
    worker = WorkerOptions(
        "demo",
        folder / "worker",
        folder / "scratch",
        max_engines=ENGINES,
        runtime=runtime,
        docker=docker,
    )
    with output_folder(folder) as has_started, LocalCluster(folder, worker=worker) as cluster:
        for declaration in declarations:
            cluster.declare(declaration)
        for declaration in declarations:
            cluster.wait_for_engines(declaration.name, declaration.engines)
        has_started()
        begun = time.monotonic()
        traffic = _send(cluster, chosen, begun)
        rows = [
            row
            for declaration in declarations
            for row in MasterFeatureDatabase(cluster.client).rows(RowFilter(declaration.name))
        ]
    verdict = _read_back(chosen, rows, declarations)
    _show(verdict, rows, traffic)
    correlations = _correlations(rows)
    _show_correlations(correlations)
    files = write_report(rows, folder / "report", _report_options(rows, declarations, traffic))
    console.say(f"Report: {files.page.resolve()}")
    if verdict.lost or max(correlations.values(), default=-1.0) > MAX_CORRELATION:
        raise typer.Exit(1)


def _check_image(settings: DockerSettings, name: str) -> None:
    """Raise InvalidInput when this machine does not have the image, which nobody else has either."""
    from harmonicio.worker.containers.docker_host import DockerHost  # Who needs no containers needs no such package.

    with closing(DockerHost(settings.url)) as host:
        try:
            host.image(name)
        except NotFound:
            raise InvalidInput(f"There is no image {name} on this machine.", hint="Build it: make images") from None


def _alternating(images: Iterable[DemoImage]) -> list[DemoImage]:
    """Return the images in the order in which several microscopes would make them side by side."""
    by_source = defaultdict(list)
    for image in images:
        by_source[image.source].append(image)
    return [image for turn in zip_longest(*by_source.values()) for image in turn if image is not None]


@contextmanager
def output_folder(folder: Path) -> Iterator[Callable[[], None]]:
    """Make the output folder anew, and give a function that is called when the start has succeeded.

    What an earlier demonstration left there is kept until then, and put back when the start fails.

    Raises:
        InvalidInput: something else is there, or nothing can be written.
    """
    mark, earlier = folder / MARK, folder.with_name(f".{folder.name}.earlier")
    if folder.exists() and not mark.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is not empty and not of an earlier demo.", hint="Give another --output.")
    try:
        if (earlier / MARK).exists():  # A run before this one was killed in its start.
            shutil.rmtree(earlier)
        if folder.exists():
            folder.rename(earlier)
        folder.mkdir(parents=True)
        mark.touch()
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror}.", hint="Give another --output.") from None
    with ExitStack() as at_failure:
        at_failure.callback(_put_back, earlier, folder)

        def has_started() -> None:
            at_failure.pop_all()
            shutil.rmtree(earlier, ignore_errors=True)

        yield has_started


def _put_back(earlier: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if earlier.exists():
        earlier.rename(folder)


# ── declaring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _declarations(images: Sequence[DemoImage], code: Mapping[str, str], folder: Path) -> list[StreamDeclaration]:
    """Return a stream per source, each calibrated on a sample of its images.

    Args:
        code: What the engines run: their ``handler``, or their ``image``.
    """
    by_source = defaultdict(list)
    for image in images:
        by_source[image.source].append(image)
    share = max(1, ENGINES // len(by_source))
    return [
        StreamDeclaration(
            source,
            handler=code.get("handler", ""),
            image=code.get("image", ""),
            engines=share,
            plugins={"haste": _haste_options(source, group, folder)},
        ).checked()
        for source, group in by_source.items()
    ]


def _haste_options(source: str, images: Sequence[DemoImage], folder: Path) -> dict[str, Any]:
    step = max(1, len(images) // SAMPLE_IMAGES)
    sample = images[::step]
    slopes, unreadable = [], []
    for image in sample:
        try:
            slopes.append(power_log_log_slope(grey(decode(image.read(), image.metadata))))
        except InvalidInput as error:
            unreadable.append(f"{image.message_id}: {error.text}")
    try:
        found = calibrate(slopes, tiers=len(TIERS))
    except InvalidInput:
        raise InvalidInput(
            f"Of {console.count(len(sample), 'image')} looked at, {len(slopes)} can be read; to find the edges between "
            f"the tiers takes {MIN_SAMPLE} that differ in focus.",
            hint=" ".join(unreadable[:1]),
        ) from None
    console.say(
        f"{source}: k = {found.k:.3g}, x0 = {found.x0:.3g}, edges {', '.join(f'{edge:.2f}' for edge in found.edges)}"
        f" from a sample of {console.count(len(slopes), 'image')}"
    )
    return {
        "function": {"name": "logistic", "feature": PLLS, "k": found.k, "x0": found.x0},
        "policy": {"name": "interval", "intervals": found.intervals(TIERS)},
        "tiers": {tier: {"folder": str(folder / "tiers" / tier)} for tier in (*TIERS, UNSCORED)},
    }


# ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _send(cluster: LocalCluster, images: Sequence[DemoImage], begun: float) -> Traffic:
    """Send half of the images as fast as the engines take them, the rest in a burst; say which way they went."""
    deliveries: list[Delivery] = []
    with ExitStack() as stack:
        connectors = {
            source: stack.enter_context(StreamConnector(source, master=cluster.url, token=cluster.source_token))
            for source in {image.source for image in images}
        }
        for number, image in enumerate(images):
            if UNDER_WAY <= number < len(images) // 2:
                _wait_for(deliveries[number - UNDER_WAY])
            deliveries.append(_send_one(connectors[image.source], image))
        with Progress("processed", len(deliveries)) as progress:
            for number, delivery in enumerate(deliveries, 1):
                if error := _wait_for(delivery):
                    console.say(f"{delivery.message_id}: {error}")
                progress.reach(number)
    took_s = time.monotonic() - begun
    routes = [delivery.route for delivery in deliveries]
    return Traffic(routes.count("engine"), routes.count("backlog"), took_s)


def _wait_for(delivery: Delivery) -> HarmonicIOError | None:
    """Wait until an image is processed; return why it is not, if so."""
    try:
        delivery.result()
    except HarmonicIOError as error:
        return error
    return None


def _send_one(connector: StreamConnector, image: DemoImage) -> Delivery:
    if isinstance(image.content, Path):
        return connector.send_file(image.content, metadata=image.metadata, message_id=image.message_id)
    return connector.send(image.content, metadata=image.metadata, message_id=image.message_id)


# ── checking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_back(
    images: Sequence[DemoImage], rows: Sequence[FeatureRow], declarations: Sequence[StreamDeclaration]
) -> Verdict:
    """Compare what was sent with the payloads in the tiers, by way of the feature rows."""
    known = {(row.stream, row.message_id): row for row in rows}
    tiers = {each.name: create_tiers(each.plugins["haste"]["tiers"]) for each in declarations}
    lost = []
    for image in images:
        row = known.get((image.source, image.message_id))
        if row is None or not _is_kept(image, tiers[image.source][row.tier], row):
            lost.append(image.message_id)
    return Verdict(len(images), len(images) - len(lost), tuple(lost))


def _is_kept(image: DemoImage, tier: Tier, row: FeatureRow) -> bool:
    try:
        return tier.read(row.location) == image.read()
    except HarmonicIOError as error:
        console.say(f"{image.message_id}: {error}")
        return False


def _correlations(rows: Sequence[FeatureRow]) -> dict[str, float]:
    """Return, for each image whose blur is known, the rank correlation of score and blur."""
    points = defaultdict(list)
    for row in rows:
        if "sigma_px" in row.metadata and row.score is not None:
            points[f"{row.stream}/{row.metadata['image']}"].append((row.metadata["sigma_px"], row.score))
    return {image: float(spearmanr(found).statistic) for image, found in points.items() if len(found) > 2}


def _show(verdict: Verdict, rows: Sequence[FeatureRow], traffic: Traffic) -> None:
    table = []
    for stream in sorted({row.stream for row in rows}):
        for tier in (*reversed(TIERS), UNSCORED):
            inside = [row for row in rows if (row.stream, row.tier) == (stream, tier)]
            if inside or tier != UNSCORED:
                table.append((stream, tier, len(inside), round(sum(row.size_bytes for row in inside) / 1e6, 1)))
    console.show_table(("stream", "tier", "images", "MB"), table)
    duration_s = traffic.duration_s or 0.0
    console.say(
        f"Routes: {traffic.peer_to_peer} peer to peer, {traffic.backlog} by the backlog; "
        f"{verdict.sent / duration_s:.0f} images/s in {duration_s:.1f} s."
    )
    unscored = [row for row in rows if row.tier == UNSCORED]
    for row in unscored[:NAMED_UNSCORED]:
        console.say(f"  unscored: {row.message_id}: {row.reason}")
    if len(unscored) > NAMED_UNSCORED:
        console.say(f"  … and {len(unscored) - NAMED_UNSCORED:,} more without a score; the report's rows.csv has all.")
    console.say(f"sent = {verdict.sent}, processed = {verdict.processed}, lost = {len(verdict.lost)}")
    for message_id in verdict.lost[:10]:
        console.say(f"  lost: {message_id}")


def _show_correlations(correlations: dict[str, float]) -> None:
    if correlations:
        worst = max(correlations, key=lambda image: correlations[image])
        console.say(
            f"Scores fall with the known blur of each of {len(correlations)} images: Spearman at most "
            f"{correlations[worst]:.3f} ({worst})."
        )


def _report_options(
    rows: Sequence[FeatureRow], declarations: Sequence[StreamDeclaration], traffic: Traffic
) -> ReportOptions:
    return ReportOptions(
        written_at=time.time(),
        title="HarmonicIO demonstration",
        hierarchies={each.name: hierarchy_of(each) for each in declarations},
        traffic=traffic,
        read_payload=payload_reader(declarations),
    )
