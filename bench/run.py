"""Run every bench and write docs/benchmarks.md: hardware, versions, date, command, table."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from kit import NOT_HERE, conditions

_HERE = Path(__file__).parent
_PAGE = _HERE.parent / "docs" / "benchmarks.md"
_PACKAGES = ("ray", "torch", "albumentations", "opencv-python-headless", "spdl")
# What others import or start, and the one that writes a page of its own.
_NOT_BENCHES = {
    *("kit.py", "run.py", "plain_loop.py", "plain_torch.py", "tune_over_train.py"),
    "deck.py",
}


def main() -> None:
    """Run the benches one after the other; extra arguments go to each of them."""
    rows: list[dict[str, Any]] = []
    for bench in sorted(_HERE.glob("*.py")):
        if bench.name in _NOT_BENCHES:
            continue
        command = [sys.executable, str(bench), *sys.argv[1:]]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode != NOT_HERE:
            done.check_returncode()
        print(done.stdout, end="", flush=True)
        rows += [json.loads(line) for line in done.stdout.splitlines()]
    _PAGE.write_text(page(rows))


def page(rows: list[dict[str, Any]]) -> str:
    """The page for these rows."""
    lines = [
        "# Benchmarks",
        "",
        "Ours and the peer's are measured in turn in one run, medians; what else ran on the",
        "machine met both. The bar is for the ratio, or for ours where there is no peer.",
        "",
        *conditions(_PACKAGES),
        f"- `make bench`{' with ' + ' '.join(sys.argv[1:]) if sys.argv[1:] else ''}",
        "",
        "| bench | what | n | ours | peer | unit | ratio | bar | holds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peer = f"{row['peer']:g}, {row['peer_name']}" if row["peer"] is not None else ""
        ratio = "" if row["ratio"] is None else f"{row['ratio']:g}"
        bar = "" if row["bar"] is None else f"{row['bar']:g}"
        holds = {None: "", True: "yes", False: "no"}[row["holds"]]
        lines.append(
            f"| {row['bench']} | {row['row']} | {row['n']} | {row['ours']:g} | {peer} | "
            f"{row['unit']} | {ratio} | {bar} | {holds} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
