"""`make picture`: a project with usage under a real Dagster UI, for the pictures of docs/costs.md.

`cost_picture.py [FOLDER [PICTURES]]`: of a project that `cost_project.py` made there, else of a new one;
with PICTURES every picture is taken, into that folder, to look at.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from picture import OUT, ROOT, find_chromium, open_page, serve

KEPT = {"costs-partitions", "costs-checks", "costs-forecast", "costs-export"}
WIDE = {"costs-cubes", "costs-export"}  # have digests, which no page breaks
SHOTS = (  # name, path, height, what is clicked
    ("costs-partitions", "/assets/usage_daily?view=partitions", 900, ()),
    ("costs-checks", "/assets/usage_daily?view=checks", 900, ()),
    ("costs-report", "/assets/cost_report?view=overview", 1900, ()),
    ("costs-forecast", "/assets/cost_forecast?view=overview", 1500, ()),
    ("costs-anomalies", "/assets/cost_anomalies?view=overview", 1200, ()),
    ("costs-cubes", "/assets/usage_cubes?view=overview", 1200, ()),
    ("costs-export", "/assets/usage_export_focus?view=overview", 1300, ()),
    ("costs-retention", "/assets/usage_retention?view=overview", 900, ()),
    ("costs-plots", "/assets/cost_forecast?view=overview", 900, ("Plots",)),
    ("costs-group", "/locations/maestro/asset-groups/costs/lineage", 900, ()),
)


def main() -> None:
    chromium = find_chromium()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(sys.argv[1] if len(sys.argv) > 1 else f"{temporary}/shop").resolve()
        if not (root / "pyproject.toml").is_file():
            script = str(ROOT / "docs" / "cost_project.py")
            subprocess.run([sys.executable, script, str(root)], check=True, timeout=1200)
        all_into = Path(sys.argv[2]) if sys.argv[2:] else None
        with serve(root, "--no-daemon") as base, open_page(chromium) as page:
            for name, path, height, clicks in SHOTS:
                if all_into is None and name not in KEPT:
                    continue
                page.set_viewport_size({"width": 1780 if name in WIDE else 1440, "height": height})
                page.goto(base + path, wait_until="networkidle")
                page.wait_for_timeout(2000)
                for text in clicks:
                    page.get_by_text(text, exact=True).first.click()
                    page.wait_for_timeout(2000)
                place = (all_into or OUT) / f"{name}.png"
                page.screenshot(path=str(place))
                print(place)  # noqa: T201 - this is the program's output


if __name__ == "__main__":
    main()
