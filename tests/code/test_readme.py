"""What the README tells people to type works as it stands."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray

REPOSITORY = Path(__file__).parents[2]
TINY = "backbone: small_cnn\nimage_size: 64\nepochs: 2\nbatch_size: 16\nlr: 3e-3\nrefit_epochs: 0\n"


def blocks(title: str) -> list[str]:
    """The shell blocks below a heading of the README."""
    text = (REPOSITORY / "README.md").read_text()
    section = re.split(r"^## ", text.split(f"\n## {title}\n")[1], flags=re.M)[0]
    return re.findall(r"```sh\n(.*?)```", section, flags=re.S)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The user's shell: this environment's commands first, a home of its own, no cluster."""
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
    """What a script prints when every command of it succeeds."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_step_by_step(
    images: Path, tmp_path: Path, environment: dict[str, str], on_a_cluster: dict[str, str]
) -> None:
    commands, serving = blocks("Step by step")
    shutil.copytree(images, tmp_path / "xrays")
    # The same commands on less: the file of settings the README names, made small.
    (tmp_path / "recipe.yaml").write_text(TINY)
    (tmp_path / "space.yaml").write_text(
        "backbone: {choice: [small_cnn]}\nimage_size: {choice: [48, 64]}\n"
        "batch_size: {choice: [16]}\nlr: {low: 1.0e-3, high: 1.0e-2, log: true}\n"
    )
    script = commands.replace("--trials 12 --time-budget 2h", "--trials 2 --max-epochs 1")
    run_shell(script, tmp_path, on_a_cluster)
    for made in (
        "store/store.json",
        "run/bundle/SHA256SUMS",
        "study/best/bundle/SHA256SUMS",
        "report/report.html",
        "predictions.csv",
        "evidence.png",
    ):
        assert (tmp_path / made).is_file(), made
    start, curl = serving.strip().split("\n", 1)
    picture = next((tmp_path / "xrays" / "COVID" / "images").iterdir())
    service = subprocess.Popen(
        start.removesuffix(" &").split(),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stdout is not None
        assert "ctray serves chest 1" in service.stdout.readline()
        reply = subprocess.run(
            ["bash", "-euc", curl.replace("IMAGE.png", str(picture))],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        answer = json.loads(reply.stdout)
        assert answer["predictions"][0]["predicted"]
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=120) == 0


def test_data_and_training(images: Path, tmp_path: Path, on_a_cluster: dict[str, str]) -> None:
    (commands,) = blocks("Data")
    shutil.copytree(images, tmp_path / "xrays")
    for path in sorted((tmp_path / "xrays" / "COVID" / "images").iterdir())[:20]:
        (tmp_path / "more" / "COVID").mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "more" / "COVID" / path.name)
    printed = run_shell(commands, tmp_path, on_a_cluster)
    assert "300 records in " in printed
    assert "320 records in " in printed
    assert (tmp_path / "preview.png").is_file()
    assert json.loads((tmp_path / "checked" / "store.json").read_text())["version"] == 2
    # The same commands with less to train; the second finds the run finished.
    (commands,) = blocks("Training")
    (tmp_path / "recipe.yaml").write_text(TINY)
    printed = run_shell(
        commands.replace("--recipe fast", "--config recipe.yaml"), tmp_path, on_a_cluster
    )
    assert printed.count("first step after ") == 1
    assert printed.count("finished already, nothing to do") == 1
    assert (tmp_path / "model" / "bundle" / "SHA256SUMS").is_file()


def test_the_demo(tmp_path: Path, environment: dict[str, str]) -> None:
    """`make demo` runs this command; here with less of everything."""
    assert "ctray demo" in (REPOSITORY / "Makefile").read_text()
    printed = run_shell(
        "ctray demo --images-per-class 24 --trials 1 --epochs 1", tmp_path, environment
    )
    assert printed.count("/v1/predict") == 5, "four predictions and the hint at the end"
    assert re.search(r"Viral Pneumonia +[01]\.\d{4}", printed)
    for made in ("report/report.html", "study/study.html", "evidence.png"):
        assert (tmp_path / "demo-out" / made).is_file()
        assert made in printed
