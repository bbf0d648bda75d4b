"""Training under kill -9, full disks and machines that are taken away: real commands, real kills.

Every run is a `python -m ctray train` with a cluster of its own (tests/chaos/chaos_kit.py). One run
is never disturbed; what the disturbed ones end with is compared with it, bit by bit.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from chaos_kit import Command, kill, running

from ctray.artefact.bundle import Bundle
from ctray.process import free_port
from ctray.synthetic.folder import write_folder
from ctray.synthetic.phantom import PhantomSpec
from ctray.training import checkpoints

# A busy machine starts Ray in half a minute, and the long test starts it five times.
pytestmark = pytest.mark.timeout(1800)

EVERY = 3
EPOCHS = 14
RECIPE = {
    "backbone": "small_cnn",
    "image_size": 64,
    "batch_size": 16,
    "lr": 3e-3,
    "checkpoint_every": EVERY,
    "refit_epochs": EPOCHS,
}
MESSENGER, WORKER, CONTROLLER = "ray::_QueueActor", "ray::RayTrainWorker", "ray::TrainController"
# What a driver may take to notice that its cluster is gone, and to end.
NOTICED_S = 45.0
# Ray's two agents of a node look for their dead parent now and then; all the rest goes at once.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
# Bytes: a checkpoint of this recipe has 2.96 million, the best weights 0.99 million.
ROOM = 8_000_000
TIMES = ("images_per_s", "seconds")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 160 synthetic images, written by the command."""
    folder = tmp_path_factory.mktemp("chaos")
    spec = PhantomSpec(images_per_class=40, size=64, seed=3)
    images = write_folder(spec, folder / "images")
    store = folder / "store"
    with running("ctray", "prepare", str(images), "--out", str(store), "--size", "64") as command:
        assert command.wait() == 0, command
    return store


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed")
    with running(*train(data, out)) as command:
        assert command.wait() == 0, command
    return out


def train(data: Path, out: Path, *more: str, epochs: int = EPOCHS) -> list[str]:
    """A `ctray train` of the recipe."""
    settings = [text for key, value in RECIPE.items() for text in ("--set", f"{key}={value}")]
    line = ["ctray", "train", "--data", str(data), "--out", str(out), "--epochs", str(epochs)]
    return [*line, *settings, *more]


def saved(folder: Path) -> list[int]:
    """The steps whose checkpoints are in a folder, oldest first."""
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("step-*.safetensors"))


def wait_for_checkpoint_after(command: Command, folder: Path, step: int) -> None:
    """Wait until training has got further than this."""
    command.wait_for(lambda: max(saved(folder), default=0) > step, f"a checkpoint after {step}")


def wait_until_it_trains(command: Command) -> None:
    """Wait for the first step."""
    command.wait_for(lambda: command.says("first step after"), "the first step")


def resumed_from(command: Command, interval: int = EVERY) -> int:
    """The step it says it goes on from."""
    found = re.search(r"resumed from step (\d+); at most (\d+) steps, and those", str(command))
    assert found, command
    assert int(found[2]) == interval
    return int(found[1])


def assert_one_sentence(command: Command, *words: str) -> None:
    """It ended as on a user's mistake: exit code 2, and a line on stderr with these words."""
    assert command.wait() == 2, command
    lines = [line for line in command.errors if line.startswith("error: ")]
    assert len(lines) == 1, command
    assert "Traceback" not in str(command)
    for word in words:
        assert word in lines[0], command


def history(out: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, without what depends on the machine."""
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in TIMES} for row in rows]


def assert_same_end(out: Path, undisturbed: Path) -> None:
    """Both runs have the same evaluations, and the same weights bit by bit; no scratch is left."""
    assert history(out) == history(undisturbed)
    ours, theirs = (Bundle.load(str(place / "bundle")) for place in (out, undisturbed))
    assert ours.info.metrics == theirs.info.metrics
    assert ours.weights.keys() == theirs.weights.keys()
    for name, tensor in ours.weights.items():
        assert np.array_equal(tensor.numpy(), theirs.weights[name].numpy()), name
    assert not (out / "checkpoints").exists()


def contents(out: Path) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of every file of a run."""
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def lose_worker_and_driver(data: Path, out: Path) -> int:
    """Kill -9 worker and messenger of a run, which are replaced, then its driver.

    What the driver started ends by itself. Returns the step of the newest checkpoint.
    """
    folder = out / "checkpoints"
    with running(*train(data, out)) as command:
        victims = [command.process_named(name) for name in (MESSENGER, WORKER)]
        wait_for_checkpoint_after(command, folder, 0)
        kill(victims)
        died = "the workers were replaced: 1 worker resumed from step "
        command.wait_for(lambda: command.says(died), "a new worker")
        again = int(str(command).partition(died)[2].partition(";")[0])
        agents = command.named(AGENTS)
        assert len(agents) == len(AGENTS)
        wait_for_checkpoint_after(command, folder, again)
        command.process.kill()
        command.process.wait()
        killed = time.monotonic()
        while left := [process for process in command.family() if process not in agents]:
            assert time.monotonic() < killed + NOTICED_S, f"left by the driver: {left}"
            time.sleep(0.2)
    return max(saved(folder))


def assert_it_asks_for_resume(data: Path, out: Path) -> None:
    """The same command again is refused."""
    with running(*train(data, out)) as command:
        sentence = f"{out} holds an unfinished run: resume it"
        assert_one_sentence(command, sentence, "(--resume, --out)")


def test_a_run_that_loses_worker_and_driver_ends_as_if_nothing_had_been(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The short form: the first kills of the long one, and `--resume` to the end."""
    out = tmp_path / "run"
    step = lose_worker_and_driver(data, out)
    assert_it_asks_for_resume(data, out)
    with running(*train(data, out, "--resume")) as command:
        assert command.wait() == 0, command
        assert resumed_from(command) == step
    assert_same_end(out, undisturbed)


@pytest.mark.chaos
def test_a_run_that_loses_every_process_once_ends_as_if_nothing_had_been(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Worker, messenger, driver, controller and cluster are killed -9, one after the other.

    The first two are replaced and the same command goes on by itself; after each of the others it
    ends by itself, says what to do, and `--resume` resumes from the newest whole checkpoint. So it
    does in the refit, after everything was killed at once. In the end weights and history are those
    of the undisturbed run.
    """
    out = tmp_path / "run"
    folder = out / "checkpoints"
    step = lose_worker_and_driver(data, out)
    assert_it_asks_for_resume(data, out)

    with running(*train(data, out, "--resume")) as command:
        victim = command.process_named(CONTROLLER)
        with running(*train(data, out, "--resume")) as second:
            assert_one_sentence(second, f"another training is at work in {out}: wait")
        wait_for_checkpoint_after(command, folder, step)
        kill([victim])
        assert_one_sentence(command, "the training died: resume the run (--resume)")
        assert resumed_from(command) == step

    # As a machine that lost its power leaves them: a name without all of its bytes, half a file.
    step = max(saved(folder))
    whole = max(folder.glob("step-*.safetensors"))
    torn = folder / f"step-{step + 1:09d}-0123456789abcdef.safetensors"
    torn.write_bytes(whole.read_bytes()[:1000])
    torn.with_name(f"step-{step + 2:09d}-0123456789abcdef.safetensors.partial").write_bytes(b"half")
    with running(*train(data, out, "--resume")) as command:
        command.process_named(WORKER)
        cluster = command.named(["/raylet/raylet ", "/gcs/gcs_server ", "ray::"])
        wait_for_checkpoint_after(command, folder, step + 1)
        kill(cluster)
        killed = time.monotonic()
        command.wait(NOTICED_S)
        print(f"the driver ended {time.monotonic() - killed:.1f} s after its cluster")
        assert_one_sentence(command, " died: ", "--resume")
        assert command.says(f"{torn} is damaged: resuming from the checkpoint before it")
        assert resumed_from(command) == step

    known = (out / "config.json").read_bytes()
    with running(*train(data, out, "--resume", "--set", "lr=0.1")) as command:
        assert_one_sentence(command, "the run to resume has lr=0.003, not 0.1")
    assert (out / "config.json").read_bytes() == known, "the record of the recipe"

    step = max(saved(folder))
    refit = folder / "refit"
    with running(*train(data, out, "--resume")) as command:
        wait_for_checkpoint_after(command, refit, 0)
        assert resumed_from(command) == step
        kill(command.family())

    # In its refit: what was finished is not trained again. How often it is saved may change.
    step = max(saved(refit))
    with running(*train(data, out, "--resume", "--set", "checkpoint_every=2")) as command:
        assert command.wait() == 0, command
        assert resumed_from(command, interval=2) == step
        assert not command.says("  loss ")
    assert_same_end(out, undisturbed)


@pytest.mark.chaos
def test_a_kill_amid_a_checkpoint_leaves_none_that_is_loaded(data: Path, tmp_path: Path) -> None:
    """The run goes on from the newest whole one; what was half written goes."""
    out = tmp_path / "run"
    folder = out / "checkpoints"
    # 180 MB after every step: most of the time one is being written.
    large = ("backbone=resnet18", "weights=none", "checkpoint_every=1", "refit_epochs=0")
    with running(*train(data, out, *(word for one in large for word in ("--set", one)))) as command:
        victim = command.process_named(WORKER)
        wait_for_checkpoint_after(command, folder, 0)

        def is_stopped_amid_one() -> bool:
            if not list(folder.glob("*.partial")):
                return False
            victim.suspend()
            command.wait_for(lambda: victim.status() == psutil.STATUS_STOPPED, "it to stand still")
            if list(folder.glob("*.partial")):
                return True
            victim.resume()
            return False

        command.wait_for(is_stopped_amid_one, "a checkpoint half written")
        [half] = folder.glob("*.partial")
        whole = max(saved(folder))
        kill([victim])
        again = f"the workers were replaced: 1 worker resumed from step {whole};"
        command.wait_for(lambda: command.says(again), again)
        wait_for_checkpoint_after(command, folder, whole)
        command.wait_for(lambda: not half.exists(), "the half is deleted")
        assert not command.says("damaged")


def test_a_finished_run_is_left_as_it_is(data: Path, undisturbed: Path) -> None:
    """The same command changes no file and says so; another recipe is refused."""
    before = contents(undisturbed)
    for more in ((), ("--resume",)):
        with running(*train(data, undisturbed, *more)) as command:
            assert command.wait() == 0, command
            assert command.says("finished already, nothing to do: validation accuracy")
    with running(*train(data, undisturbed, "--set", "lr=0.1")) as command:
        assert_one_sentence(
            command, "holds a finished run with lr=0.003, not 0.1: choose another", "(--out)"
        )
    assert contents(undisturbed) == before


def test_a_run_whose_raylet_alone_dies_says_so(data: Path, tmp_path: Path) -> None:
    """Ray would end the process with 1, and its own log, at the next word to it."""
    with running(*train(data, tmp_path / "run")) as command:
        wait_until_it_trains(command)
        kill([command.process_named("/raylet/raylet ")])
        sentence = "the Ray cluster of this command died: run the same command with --resume"
        assert_one_sentence(command, sentence)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for two checkpoints of this recipe but not for three."""
    place = tmp_path / "tmpfs"
    place.mkdir()
    if not _mount("-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)):
        pytest.skip("mounting is not permitted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(
    data: Path, tmpfs: Path, tmp_path: Path
) -> None:
    """One sentence names place, cause and last good step; that checkpoint is whole, no half is
    left, and with room again `--resume` goes on from it: here, with one worker or two."""
    out, folder = tmp_path / "run", tmpfs / "checkpoints"
    less = ("--set", "refit_epochs=0")
    command_line = train(data, out, "--checkpoints", str(folder), *less, epochs=2)
    with running(*command_line) as command:
        words = ("cannot be written", str(folder), "No space left on device", "--resume")
        command.wait()
        assert_one_sentence(command, *words)
        assert max(saved(folder)) > 0
        assert f"the last good one is of step {max(saved(folder))};" in command.error
    assert list(folder.glob("*.partial")) == []
    warnings: list[str] = []
    found = checkpoints.newest(str(folder), warnings.append)
    assert found is not None
    assert warnings == []
    assert found[1]["step"] == max(saved(folder))

    assert _mount("-o", "remount,size=64m", str(tmpfs))
    with running(*command_line, "--resume", "--workers", "1:2") as command:
        assert command.wait() == 0, command
        assert resumed_from(command) == found[1]["step"]
        assert command.says("plan: small_cnn at 64 px, 1 to 2 workers")
    assert Bundle.load(str(out / "bundle")).info.metrics["val_records"] > 0
    assert list(folder.iterdir()) == [], "the folder was named to us: it stays"


@pytest.mark.parametrize("place", ["below a file", "read-only", "no server"])
def test_checkpoints_that_cannot_be_written_are_one_sentence_at_once(
    data: Path, tmp_path: Path, place: str, request: pytest.FixtureRequest
) -> None:
    """The command ends before it starts Ray, and leaves no folder."""
    out = tmp_path / "run"
    if place == "below a file":
        (tmp_path / "file").write_text("mine")
        uri = str(tmp_path / "file" / "checkpoints")
    elif place == "read-only":
        mounted = request.getfixturevalue("tmpfs")
        assert _mount("-o", "remount,ro", str(mounted))
        uri = str(mounted / "checkpoints")
    else:
        uri = f"s3://bucket/checkpoints?endpoint_override=127.0.0.1:{free_port()}&scheme=http"
    keys = {name: "none" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    with running(*train(data, out, "--checkpoints", uri), environment=keys) as command:
        assert_one_sentence(command, "checkpoints cannot be", uri, "(--checkpoints)")
        assert command.lines == [], "it had begun"
    assert not out.exists()


_DRAIN = """
import sys, time
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2, gcs_pb2
client = GcsClient(address=sys.argv[1])
alive = gcs_pb2.GcsNodeInfo.ALIVE
nodes = [node for node in client.get_all_node_info().values() if node.state == alive]
(node,) = [node for node in nodes if node.resources_total["CPU"] > 1]
reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION
deadline = int((time.time() + 60) * 1000)
print(client.drain_node(node.node_id.hex(), reason, "taken away", deadline))
"""


def test_a_machine_that_is_taken_away_loses_no_step(data: Path, tmp_path: Path) -> None:
    """On notice a checkpoint is written at once; on another machine the run goes on from it."""
    out, address = tmp_path / "run", f"127.0.0.1:{free_port()}"
    folder = out / "checkpoints"
    open_cluster = {"RAY_AUTH_MODE": "disabled"}

    def node(*arguments: str) -> Any:
        line = ["ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *arguments]
        return running(*line, environment=open_cluster)

    joined = open_cluster | {"RAY_ADDRESS": address}
    # The head has no room for the worker, but for the data: no task starts on a machine that is to
    # be taken away, and without batches a run cannot come to its next look.
    # So many steps between the checkpoints that only the notice writes one beside each epoch's.
    line = train(data, out, "--set", "checkpoint_every=1000", epochs=2000)
    with (
        node("--head", f"--port={address.partition(':')[2]}", "--num-cpus=1") as head,
        node(f"--address={address}", "--num-cpus=2") as first,
    ):
        for one in (head, first):
            one.wait_for(lambda one=one: one.says("Ray runtime started"), "the node")
        with running(*line, environment=joined) as command:
            wait_until_it_trains(command)
            subprocess.run(
                [sys.executable, "-c", _DRAIN, address], env=first.environment, check=True
            )
            told = "a machine is about to be taken away: step "
            command.wait_for(lambda: command.says(told), "the notice")
            step = int(str(command).partition(told)[2].split()[0])
            with node(f"--address={address}", "--num-cpus=2") as second:
                second.wait_for(lambda: second.says("Ray runtime started"), "the second node")
                kill(first.family())
                died = "the workers were replaced: 1 worker resumed from step "
                command.wait_for(lambda: command.says(died), "a new worker")
                again = int(str(command).partition(died)[2].partition(";")[0])
                assert again >= step
                wait_for_checkpoint_after(command, folder, again)
