"""`python -m serve`: what it refuses, what it prints, and that nothing is left when it stops."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import typer
from serve_kit import png, wait_for
from typer.testing import CliRunner, Result

from ctray.artefact import DEFAULT_NAME
from ctray.artefact.registry import promote
from ctray.errors import UserError
from ctray.process import free_port
from serve.__main__ import main
from serve.settings import ServiceSettings


def run(*arguments: str) -> Result:
    """The command in this process; what these tests ask of it is refused before Ray is needed."""
    application = typer.Typer()
    application.command()(main)
    return CliRunner().invoke(application, arguments)


def refusal(result: Result) -> str:
    """The one sentence of a refusal."""
    # `run_cli` makes a line and exit code 2 of it.
    assert isinstance(result.exception, UserError), result
    assert result.stdout == ""
    [line] = str(result.exception).splitlines()
    return line


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--help",), 0, f"default: {DEFAULT_NAME}"),
        (("--prot", "80"), 2, "No such option: --prot"),
        (("/no/such/bundle",), 2, "error: /no/such/bundle is not a bundle: it has no SHA256SUMS"),
    ],
    ids=["help", "unknown-option", "no-bundle"],
)
def test_it_answers_before_anything_heavy_is_imported(
    arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    imports, said = [], [done.stdout]
    for line in done.stderr.splitlines():
        if line.startswith("import time:"):
            imports.append(line.rpartition("|")[2].strip())
        else:
            said.append(line)
    assert done.returncode == code
    # A sentence may be wrapped and framed.
    assert sentence in re.sub(r"[\s│]+", " ", " ".join(said))
    assert "serve.settings" in imports
    assert {"torch", "ray", "openvino", "cv2", "timm", "fastapi"} & set(imports) == set()


@pytest.mark.fast
@pytest.mark.parametrize("given", [(), ("--max-body-bytes", "1000000")], ids=["default", "given"])
def test_the_largest_body_is_an_option(
    given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[ServiceSettings] = []
    monkeypatch.setattr(
        "serve.__main__.serve_until_stopped", lambda _, chosen: served.append(chosen)
    )
    assert run("/a/bundle", *given).exit_code == 0
    [settings] = served
    assert settings.max_body_bytes == (1_000_000 if given else 64 * 2**20)


@pytest.mark.fast
def test_a_path_that_is_no_bundle(tmp_path: Path) -> None:
    assert f"{tmp_path} is not a bundle" in refusal(run(str(tmp_path)))


@pytest.mark.fast
def test_a_damaged_bundle(bundle: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    weights = bytearray((damaged / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "weights.safetensors").write_bytes(weights)
    assert "weights.safetensors does not match" in refusal(run(str(damaged)))


@pytest.mark.fast
def test_nothing_promoted(tmp_path: Path) -> None:
    message = refusal(run("--registry", str(tmp_path), "--name", "lungs"))
    assert "nothing was promoted as 'lungs'" in message


@pytest.mark.fast
def test_a_port_in_use(bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refusal(run(str(bundle), "--port", str(port)))
    assert f"127.0.0.1:{port}" in message
    assert "in use" in message


@pytest.mark.fast
def test_a_host_of_another_machine(bundle: Path) -> None:
    assert "203.0.113.1" in refusal(run(str(bundle), "--host", "203.0.113.1"))


def test_it_serves_the_promoted_bundle_and_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    promote(str(bundle), str(registry))
    port = free_port()
    command = [sys.executable, "-m", "serve", "--registry", str(registry), "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        url = f"http://127.0.0.1:{port}"
        if line != f"ctray serves chest 1 (small_cnn) at {url}  (docs: {url}/docs)\n":
            process.terminate()
            pytest.fail("".join([line, *process.communicate(timeout=60)]))
        note = process.stdout.readline()
        assert note.startswith("note: it was trained on synthetic images")
        headers = {"content-type": "image/png"}
        reply = httpx.post(f"{url}/v1/predict", content=png(1), headers=headers)
        assert reply.json()["model"] == {"name": "chest", "version": "1"}
        started = descendants(process.pid)
        commands = " ".join(started.values())
        assert "raylet" in commands
        assert "haproxy" in commands
        folder = re.search(r"(/tmp/ctray-\w+)/", commands)
        assert folder is not None
    finally:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "")
    assert "Traceback" not in errors
    wait_for(lambda: not any(alive(pid) for pid in started), "every process it started is gone")
    assert not Path(folder[1]).exists()


def descendants(pid: int) -> dict[int, str]:
    """Process ids and command lines of the children of a process, and theirs."""
    found: dict[int, str] = {}
    parents = {child: parent for child in _processes() if (parent := _parent(child)) is not None}
    for child in parents:
        ancestor: int | None = child
        while ancestor is not None and ancestor != pid:
            ancestor = parents.get(ancestor)
        if ancestor == pid and child != pid:
            found[child] = _read(f"/proc/{child}/cmdline").replace("\0", " ")
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has collected does not."""
    status = _read(f"/proc/{pid}/stat")
    return status != "" and status.rpartition(")")[2].split()[0] != "Z"


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent(pid: int) -> int | None:
    status = _read(f"/proc/{pid}/stat")
    return int(status.rpartition(")")[2].split()[1]) if status else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
