"""A wheel built from the tree is all that ctray needs: what it holds, and the demo run from it."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("ctray", "serve", "tuning")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, built without the network."""
    place = tmp_path_factory.mktemp("wheel")
    sources = place / "sources"
    # Of a copy: a build folder in the tree would keep files that the tree no longer has.
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in names:
        if (REPOSITORY / name).is_file():
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            (sources / name).write_bytes((REPOSITORY / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(place), str(sources)]
    subprocess.run(command, check=True, timeout=300)
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment that has the wheel and what it depends on.

    The dependencies are those of the tests' own environment, whose editable ctray stays out: only
    the environment's own folder may have one.
    """
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=False)
    site = next((place / "lib").glob("python*/site-packages"))
    command = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python")]
    command += ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, timeout=300)
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return place / "bin"


@pytest.mark.fast
def test_the_wheel_has_every_file_of_its_packages(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    held = set(zipfile.ZipFile(wheel).namelist())
    assert [name for name in tracked if (REPOSITORY / name).is_file() and name not in held] == []
    others = [name for name in held if not name.startswith((*PACKAGES, "ctray-"))]
    assert others == []


def test_the_demo_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """`make demo` runs this command; here with less of everything."""
    assert "ctray demo" in (REPOSITORY / "Makefile").read_text()
    left_out = ("RAY_", "PYTHONPATH")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    options = "--images-per-class 24 --trials 1 --epochs 1"
    done = subprocess.run(
        [str(installed / "ctray"), "demo", *options.split()],
        cwd=tmp_path,
        env=environment | {"CTRAY_REGISTRY": str(tmp_path / "registry")},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("/v1/predict") == 5, "four predictions and the hint at the end"
    assert re.search(r"Viral Pneumonia +[01]\.\d{4}", done.stdout)
    for made in ("report/report.html", "study/study.html", "evidence.png"):
        assert (tmp_path / "demo-out" / made).is_file()
        assert made in done.stdout


@pytest.mark.fast
def test_the_installed_ctray_is_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import ctray, serve, tuning; print(ctray.__file__, serve.__file__, tuning.__file__)"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    printed = subprocess.run(
        [str(installed / "python"), "-c", code],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert len(printed.split()) == 3
    assert all(file.startswith(str(installed.parent)) for file in printed.split())
