"""Kills a run of all stages with SIGKILL again and again, and compares every byte with a run that nobody killed.

    python benchmarks/soak.py --kills 200 --seed 1 --output soak.json
    python benchmarks/soak.py --kills 50 --set reinforce.baseline=self_critical

The runs are those of ``tests/helpers/kills.py``; a third of the kills come at any time, a third before any file operation, a
third while a checkpoint is being written. Ends with 1 at the first difference, and then keeps the folders that differ.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.kills import Hit, Ordeal, drawn, write_recipe

from guerdon.cli.common import progress
from guerdon.data.files import write_atomically


def tables(hits: Counter[Hit]) -> dict[str, Any]:
    """The kills by stage, by phase, and by both."""
    by_stage, by_phase = Counter[str](), Counter[str]()
    for hit, number in hits.items():
        by_stage[hit.stage] += number
        by_phase[hit.phase] += number
    both = {f"{hit.stage} {hit.phase}": number for hit, number in sorted(hits.items(), key=repr)}
    return {"kills": hits.total(), "by_stage": by_stage, "by_phase": by_phase, "by_stage_and_phase": both}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.OPTION=VALUE")
    parser.add_argument("--folder", type=Path, help="where to work: on a disk in memory it is quicker")
    parser.add_argument("--output", type=Path, default=Path("soak.json"))
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="soak-", dir=options.folder))
    hits, difference = Counter[Hit](), ""
    ordeal = Ordeal(write_recipe(place), place, options.overrides)
    with progress(json_output=False) as shown:
        shown.begin("soak", options.kills)
        try:
            for instant in drawn(options.seed, ordeal):
                hit = ordeal.kill(instant)
                hits += Counter([hit] if hit is not None else [])
                shown.advance(hits.total(), {"compared": ordeal.compared})
                if hits.total() >= options.kills:
                    break
            ordeal.finish()
        except AssertionError as error:
            difference = str(error)
        shown.end(difference)
    found = {"seed": options.seed, "set": options.overrides, **tables(hits), "compared": ordeal.compared}
    found["difference"] = difference or None
    write_atomically(options.output, [json.dumps(found, indent=2).encode(), b"\n"])
    print(json.dumps(found))
    if not difference:
        shutil.rmtree(place)
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
