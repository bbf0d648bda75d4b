"""The whole way on embedded synthetic data, by the commands a user would type."""

import json
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctray.process import free_port, sigterm_as_exit
from ctray.storage import check_empty
from ctray.synthetic.phantom import CLASSES

_SERVICE_DEADLINE_S = 120


def run_demo(out: Path, images_per_class: int, trials: int, epochs: int) -> None:
    """Draw images, prepare, search, evaluate, promote, serve, predict over HTTP and explain.

    Each step is a command of its own, printed before it runs; what it started it has stopped when
    it ends.

    Args:
        out: an empty or missing folder for everything.
        images_per_class: how many images are drawn.
        trials: of the search.
        epochs: most epochs of a trial.

    Raises:
        UserError: `out` holds something.
        subprocess.CalledProcessError: a step failed; it has printed why.
    """
    check_empty(out)
    start = time.monotonic()
    data, store, study, registry = out / "data", out / "store", out / "study", out / "registry"
    report, evidence = out / "report", out / "evidence.png"
    print("The demo runs on synthetic images: its figures say nothing about patients.")
    _run("phantom", "--out", data, "--images-per-class", images_per_class)
    _run("prepare", data, "--out", store)
    budget = ("--trials", trials, "--max-epochs", epochs)
    _run("search", "--data", store, *budget, "--out", study)
    bundle = study / "best" / "bundle"
    _run("evaluate", bundle, "--data", store, "--out", report)
    _run("promote", bundle, "--registry", registry)
    pictures = [sorted((data / name / "images").iterdir())[0] for name in CLASSES]
    place = ("--registry", registry, "--port", free_port())
    with sigterm_as_exit(), _service(*place) as address:
        for picture in pictures:
            _predict(address, picture)
    _run("explain", bundle, pictures[0], "--out", evidence)
    print(
        f"\nDone in {time.monotonic() - start:.0f} s; everything it started has stopped.\n"
        f"  report    {report / 'report.html'}\n"
        f"  study     {study / 'study.html'}\n"
        f"  evidence  {evidence}\n"
        "On your own data (one folder a class), step by step:\n"
        "  ctray prepare DATA --out store\n"
        "  ctray search --data store --out study\n"
        "  ctray evaluate study/best/bundle --data store --out report\n"
        "  ctray promote study/best/bundle\n"
        "  ctray serve\n"
        "  curl --data-binary @IMAGE.png -H 'Content-Type: image/png' "
        "http://127.0.0.1:8000/v1/predict"
    )


def _run(verb: str, *arguments: object) -> None:
    subprocess.run(_command(verb, *arguments), check=True)


def _command(verb: str, *arguments: object) -> list[str]:
    words = [verb, *(str(argument) for argument in arguments)]
    print(f"\n$ ctray {shlex.join(words)}", flush=True)
    return [sys.executable, "-m", "ctray", *words]


@contextmanager
def _service(*arguments: object) -> Iterator[str]:
    """Run the service for a block; yields its address, which is the word that starts http."""
    process = subprocess.Popen(
        _command("serve", *arguments), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise subprocess.CalledProcessError(process.wait(), process.args)
        print(line, end="")
        yield next(word for word in line.split() if word.startswith("http"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=_SERVICE_DEADLINE_S)


def _predict(address: str, picture: Path) -> None:
    print(f"\n$ curl --data-binary @{picture} -H 'Content-Type: image/png' {address}/v1/predict")
    request = urllib.request.Request(
        f"{address}/v1/predict", picture.read_bytes(), {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        answer = json.load(reply)["predictions"][0]
    print(f"  {answer['predicted']}  (drawn as {picture.parent.parent.name})")
    for name, probability in answer["probabilities"].items():
        print(f"    {name:<16} {probability:.4f}")
