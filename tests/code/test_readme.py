"""What the README tells people to type works as it stands."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import ray

REPOSITORY = Path(__file__).parents[2]
# Whoever follows the steps ends with these.
MADE = (
    "store/store.json",
    "store/report.html",
    "run/bundle/SHA256SUMS",
    "study/best/bundle/SHA256SUMS",
    "study/study.html",
    "report/report.html",
    "predictions.csv",
    "evidence.png",
    "preview.png",
)


def section(title: str) -> str:
    """What the README says below a heading."""
    text = (REPOSITORY / "README.md").read_text()
    return re.split(r"^## ", text.split(f"\n## {title}\n")[1], flags=re.M)[0]


def blocks(title: str) -> list[str]:
    """The shell blocks below a heading of the README."""
    return re.findall(r"```sh\n(.*?)```", section(title), flags=re.S)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The user's shell: this environment's commands first, a registry of its own, no cluster."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    binaries = Path(sys.executable).parent
    return kept | {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "CTRAY_REGISTRY": str(tmp_path_factory.mktemp("home") / "registry"),
    }


@pytest.fixture(scope="module")
def on_a_cluster(cluster: None, environment: dict[str, str]) -> dict[str, str]:
    """The shell of a user who has a cluster: the commands join the one of the tests."""
    address = ray.get_runtime_context().gcs_address
    ours = {k: v for k, v in os.environ.items() if k.startswith("RAY_")}
    return environment | ours | {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}


def run_shell(script: str, folder: Path, environment: dict[str, str]) -> str:
    """What a script prints when every command of it succeeds.

    Into files, not pipes: a service that a failed script leaves behind would keep a pipe open.
    """
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=environment,
            stdout=printed,
            stderr=said,
            text=True,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=500)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for file in (printed, said):
            file.seek(0)
        text = printed.read()
        assert status == 0, text + said.read()
        return text


def test_step_by_step(
    tmp_path: Path, environment: dict[str, str], on_a_cluster: dict[str, str]
) -> None:
    *before, serving, more = blocks("Step by step")
    assert "ctray serve" in serving
    # Not one word is changed. Only the start and stop of the cluster are spared: the service, which
    # sets it up for itself, is the only one to start its own.
    printed = run_shell("".join(before), tmp_path, on_a_cluster)
    assert printed.count("first step after ") == 1
    assert printed.count("finished already, nothing to do") == 1
    assert printed.count("chosen for the refit: step ") == 1
    assert printed.count("before its refit") == 1
    assert "160 records in " in printed
    # What the shell remembers from the fourth step on; and the service ends without an error.
    picture = next(line for line in before[-1].splitlines() if line.startswith("IMAGE="))
    printed = run_shell(f"{picture}\n{serving}wait %1\n", tmp_path, environment)
    assert "ctray serves chest 1" in printed
    reply = json.loads(printed[printed.index('{"model"') : printed.rindex("}") + 1])
    assert reply["predictions"][0]["predicted"]
    printed = run_shell(more, tmp_path, on_a_cluster)
    assert "200 records in " in printed
    for made in MADE:
        assert (tmp_path / made).is_file(), made
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 41
    assert json.loads((tmp_path / "store" / "store.json").read_text())["version"] == 2
    shown = json.loads(re.findall(r"```json\n(.*?)```", section("What comes back"), flags=re.S)[0])
    assert shown.keys() == reply.keys()
    assert shown["predictions"][0].keys() == reply["predictions"][0].keys()
    assert shown["predictions"][0]["probabilities"].keys() == (
        reply["predictions"][0]["probabilities"].keys()
    )


@pytest.mark.fast
def test_the_image_is_found_in_flat_and_in_nested_folders(tmp_path: Path) -> None:
    (line,) = re.findall(r"^IMAGE=.*$", section("Step by step"), flags=re.M)
    for place in ("flat/xrays/COVID", "nested/xrays/COVID/images"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.png").touch()
    for start in ("flat", "nested"):
        found = run_shell(f'{line}\necho "$IMAGE"', tmp_path / start, dict(os.environ))
        assert found.strip().endswith("/a.png")


@pytest.mark.fast
def test_what_is_installed_exists() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].keys()
    (commands,) = blocks("Install")
    named = re.findall(r"\[([\w-]+)\]", commands)
    assert named
    assert extras >= set(named)
    table = re.findall(r"^\| (`.*?) \|", section("Install"), flags=re.M)
    assert set(re.findall(r"`([\w-]+)`", " ".join(table))) == extras


@pytest.mark.fast
def test_the_two_commands_are_targets_of_make() -> None:
    (commands,) = blocks("Two commands")
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", commands, flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
