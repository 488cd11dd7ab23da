"""Chaos on real processes: ``make chaos MINUTES=10 SEED=5``, or ``PLAN=file`` for a plan that was written before.

    plan ──► ground ──► cluster ──► load and faults ──► rest ──► verdict

When the plan is over, all faults are; the cluster must then come to rest within :data:`REST_WITHIN_S`. The folder of a
run keeps plan, journals, logs and tables.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from chaos import ground
from chaos.plan import Plan, make_plan
from chaos.run import Run

RATE = 4.0


def main() -> int:
    given = _arguments()
    if reason := ground.why_not() if not ground.is_inside() else "":
        print(f"Chaos needs Linux namespaces of its own (root, or unprivileged user namespaces). {reason}")
        return 2
    if not ground.is_inside():
        ground.enter(sys.argv[1:])
    ground.be_first()
    plan = Plan.read(given.plan) if given.plan else make_plan(given.seed, given.minutes * 60, every_s=given.every_s)
    folder = _emptied(given.folder.absolute())
    plan.save(folder / "plan.json")
    print(f"{len(plan.faults)} faults of {len({each.kind for each in plan.faults})} kinds: {folder / 'plan.json'}")
    return Run(folder, plan, given.rate).run()


def _emptied(folder: Path) -> Path:
    """Make the folder of a run, in place of that of an earlier one; what is not one of ours is left alone."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / "plan.json").exists():
            sys.exit(f"{folder} is not empty, and no folder of an earlier run: choose another one with --folder.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")))
    parser.add_argument("--every-s", type=float, default=4.0, help="seconds between faults, on average")
    parser.add_argument("--plan", type=Path, help="a plan that was written before, in place of the three above")
    parser.add_argument("--rate", type=float, default=RATE, help="messages per second and source")
    parser.add_argument("--folder", type=Path, default=Path("build/chaos"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
