"""The long tables of what is killed when: every test marked `chaos`, so many times over.

Each row is a test: how many of its runs failed. The bar is none.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from kit import REPOSITORY, alone, emit, note, parser


def run_once() -> dict[str, bool]:
    """By test whether it passed; skipped ones are left out."""
    with tempfile.TemporaryDirectory(prefix="ctray-chaos-") as place:
        report = Path(place) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "chaos", f"--junitxml={report}"]
        subprocess.run(command, cwd=REPOSITORY, env=alone(), stdout=sys.stderr)
        cases = ElementTree.parse(report).iter("testcase")
        return {
            f"{case.get('classname', '').rpartition('.')[2]}: {case.get('name')}": not (
                case.findall("failure") or case.findall("error")
            )
            for case in cases
            if not case.findall("skipped")
        }


def main() -> None:
    """Run the tests and print a row for each."""
    made = parser(__doc__ or "")
    made.add_argument("--times", type=int, default=3, help="how often each test runs")
    options = made.parse_args()
    times = 1 if options.quick else options.times
    runs: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for number in range(times):
        note(f"round {number + 1} of {times}")
        for name, passed in run_once().items():
            runs[name] += 1
            failures[name] += not passed
    for name in sorted(runs):
        emit("chaos", name, "failed runs", failures[name], runs[name], bar=0, at_most=True)


if __name__ == "__main__":
    main()
