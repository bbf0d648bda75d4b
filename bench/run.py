"""Run benches and write docs/benchmarks.md: for each its hardware, versions, date and table.

`python bench/run.py` runs all but the tables of `make chaos`, `python bench/run.py stream
search_overhead` runs these two; the sections of others stay as they are. Options go to each bench.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from kit import NOT_HERE, conditions, note

_HERE = Path(__file__).parent
_PAGE = _HERE.parent / "docs" / "benchmarks.md"
_PACKAGES = ("ray", "torch", "albumentations", "opencv-python-headless", "spdl")
# `make chaos` runs these.
_CHAOS = {"chaos", "search_kills"}
# What others import or start, and the two that train for hours and write no table here.
_NOT_BENCHES = {"kit", "run", "plain_loop", "plain_torch", "tune_over_train", "deck", "folds"}
_HEAD = """# Benchmarks

Ours and the peer's are measured in turn in one run, medians of its rounds; what else ran on the
machine met both. The bar is for the ratio, or for ours where there is no peer.
`make bench` runs all but the tables of kills, which `make chaos` runs before a release;
`python bench/run.py NAME` runs one.
"""


def main() -> None:
    """Run the benches named, or all, one after the other."""
    known = sorted({path.stem for path in _HERE.glob("*.py")} - _NOT_BENCHES)
    names = [word for word in sys.argv[1:] if word in known]
    options = [word for word in sys.argv[1:] if word not in known]
    if options and not options[0].startswith("-"):
        sys.exit(f"no bench {options[0]!r}; there are: {', '.join(known)}")
    for name in names or sorted(set(known) - _CHAOS):
        command = [sys.executable, str(_HERE / f"{name}.py"), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode == NOT_HERE:
            note(f"{name}: not here")
            continue
        done.check_returncode()
        print(done.stdout, end="", flush=True)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        # As soon as it is there: all of them take hours.
        before = _PAGE.read_text() if _PAGE.exists() else ""
        _PAGE.write_text(with_section(before, name, section(rows, options)))


def with_section(page: str, name: str, text: str) -> str:
    """The page with this section in place of the one of the same name."""
    parts = re.split(r"^## (.+)\n", page, flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True)) | {name: f"\n{text}"}
    bodies = (f"## {key}\n\n{sections[key].strip()}\n" for key in sorted(sections))
    return "\n".join([_HEAD, *bodies])


def section(rows: list[dict[str, Any]], options: list[str]) -> str:
    """What these rows were measured on and with, and the table of them."""
    lines = [
        *conditions(_PACKAGES),
        *([f"- with {' '.join(options)}"] if options else []),
        "",
        "| what | n | ours | peer | unit | ratio | bar | holds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peer = f"{row['peer']:g}, {row['peer_name']}" if row["peer"] is not None else ""
        ratio = "" if row["ratio"] is None else f"{row['ratio']:g}"
        bar = "" if row["bar"] is None else f"{row['bar']:g}"
        holds = {None: "", True: "yes", False: "no"}[row["holds"]]
        lines.append(
            f"| {row['row']} | {row['n']} | {row['ours']:g} | {peer} | {row['unit']} | {ratio} | "
            f"{bar} | {holds} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
