"""The table of results: its script trains, scores and writes, and does nothing twice."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ONLY = ("small_cnn",)


def deck(out: Path, *only: str) -> str:
    """What the script prints when it succeeds."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "bench/deck.py", "--quick", "--out", str(out), "--only", *only],
        cwd=REPOSITORY,
        env=kept,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_table_of_results(tmp_path: Path) -> None:
    published = REPOSITORY / "docs" / "results.md"
    before = published.read_bytes() if published.exists() else None
    assert "finished already" not in deck(tmp_path, *ONLY)
    page = (tmp_path / "results.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    header, *systems = rows
    assert [row[0].removeprefix("| ") for row in systems] == list(ONLY)
    assert all(len(row) == len(header) for row in systems)
    assert [row[3] for row in systems] == ["random, by design"]
    for row in systems:
        for cell in row[5:9]:
            value, low, high = (float(v) for v in cell.strip("()").replace("(", "–").split("–"))
            assert 0 <= low <= value <= high <= 1
    assert "## The deck" in page
    assert "## The default" not in page
    assert "synthetic" in page.lower()
    assert "No result" in page
    assert "finished already, nothing to do" in deck(tmp_path, "small_cnn")
    assert (published.read_bytes() if published.exists() else None) == before
