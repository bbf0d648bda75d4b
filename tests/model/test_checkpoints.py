"""Checkpoints: whole or not there, bit for bit, and only what is still of use is kept."""

import os
from pathlib import Path

import pytest
import torch

from ctray.errors import UserError
from ctray.training import checkpoints
from ctray.training.checkpoints import NotWrittenError, Snapshot, Writer

pytestmark = pytest.mark.fast


def step(number: int) -> Snapshot:
    state = {"step": number, "best_file": None}
    tensors = {"model.w": torch.randn(4, 3), "optimizer.step.w": torch.tensor(float(number))}
    return Snapshot("step", number, tensors, state)


def best_of(number: int) -> Snapshot:
    return Snapshot("best", number, {"w": torch.full((2,), float(number))}, {})


def refuse(text: str) -> None:
    raise AssertionError(text)


def test_what_is_read_is_what_was_written_bit_for_bit(tmp_path: Path) -> None:
    uri = str(tmp_path / "new" / "folder")
    snapshot = step(12)
    checkpoints.save(uri, snapshot)
    found = checkpoints.newest(uri, refuse)
    assert found is not None
    tensors, state = found
    assert state == snapshot.state
    assert tensors.keys() == snapshot.tensors.keys()
    assert all(torch.equal(tensors[name], value) for name, value in snapshot.tensors.items())


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert checkpoints.newest(str(tmp_path), refuse) is None
    assert checkpoints.newest(str(tmp_path / "missing"), refuse) is None


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path) -> None:
    uri = str(tmp_path)
    checkpoints.save(uri, step(10))
    name = checkpoints.save(uri, step(20))
    whole = (tmp_path / name).read_bytes()
    for damage in (whole[:-1], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        (tmp_path / name).write_bytes(damage)
        said: list[str] = []
        found = checkpoints.newest(uri, said.append)
        assert found is not None
        assert found[1]["step"] == 10
        assert len(said) == 1
        assert name in said[0]


def test_a_checkpoint_whose_best_weights_are_gone_is_passed_over(tmp_path: Path) -> None:
    uri = str(tmp_path)
    writer = Writer(uri, None)
    writer.submit(step(10), best_of(10))
    writer.submit(step(20), best_of(20))
    writer.wait()
    (gone,) = tmp_path.glob("best-000000020-*")
    gone.unlink()
    said: list[str] = []
    found = checkpoints.newest(uri, said.append)
    assert found is not None
    assert found[1]["step"] == 10
    assert gone.name in said[0]
    assert torch.equal(checkpoints.load_best(uri).weights["w"], torch.full((2,), 10.0))


def test_the_best_weights_are_those_of_the_newest_checkpoint(tmp_path: Path) -> None:
    uri = str(tmp_path)
    # An attempt that was killed between the two files: another one did the same step again.
    for lost in range(8):
        checkpoints.save(uri, Snapshot("best", 20, {"w": torch.full((2,), -1.0 - lost)}, {}))
    writer = Writer(uri, None)
    writer.submit(step(20), best_of(20))
    writer.wait()
    assert torch.equal(checkpoints.load_best(uri).weights["w"], torch.full((2,), 20.0))
    with pytest.raises(UserError, match=r"not in .*: name a place") as caught:
        checkpoints.load_best(str(tmp_path / "elsewhere"))
    assert caught.value.arguments == ("checkpoints",)


def test_the_validation_logits_come_back_beside_the_weights(tmp_path: Path) -> None:
    logits = torch.randn(5, 3)
    tensors = {"w": torch.ones(2), checkpoints.VAL_LOGITS: logits}
    writer = Writer(str(tmp_path), None)
    writer.submit(step(20), Snapshot("best", 20, tensors, {}))
    writer.wait()
    best = checkpoints.load_best(str(tmp_path))
    assert best.weights.keys() == {"w"}, "the model takes the rest as they are"
    assert best.val_logits is not None
    assert torch.equal(torch.from_numpy(best.val_logits), logits)


def test_a_best_file_of_an_older_version_has_no_validation_logits(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path), None)
    writer.submit(step(20), best_of(20))
    writer.wait()
    assert checkpoints.load_best(str(tmp_path)).val_logits is None


def test_what_a_kill_left_half_is_cleared_away(tmp_path: Path) -> None:
    half = tmp_path / "step-000000009-0123456789abcdef.safetensors.partial"
    half.write_bytes(b"half")
    writer = Writer(str(tmp_path), None)
    writer.submit(step(10))
    writer.wait()
    assert not half.exists()


def test_only_the_last_two_and_what_they_refer_to_are_kept(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path), None)
    for number, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 5)):
        writer.submit(step(number), best_of(best) if best == number else None)
    writer.wait()
    kept = sorted(path.name.rsplit("-", 1)[0] for path in tmp_path.iterdir())
    assert kept == ["best-000000002", "best-000000005", "step-000000004", "step-000000005"]
    (tmp_path / "others.txt").write_text("")
    checkpoints.clear(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["others.txt"]


def test_what_cannot_be_written_is_one_sentence_with_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(str(tmp_path), None)
    writer.submit(step(10))
    writer.wait()

    def full(uri: str, data: bytes) -> None:
        raise OSError(28, os.strerror(28))

    def gone(uri: str) -> list[str]:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr("ctray.storage.write_bytes", full)
    # The whole storage may be gone: the sentence must not need it.
    monkeypatch.setattr("ctray.storage.files", gone)
    writer.submit(step(20))
    with pytest.raises(NotWrittenError, match=r"step 20 cannot .*No space left.* is of step 10"):
        writer.wait()
    monkeypatch.undo()
    found = checkpoints.newest(str(tmp_path), refuse)
    assert found is not None
    assert found[1]["step"] == 10


def test_they_live_on_an_object_store(bucket: str) -> None:
    uri = bucket.format("runs/7")
    assert checkpoints.newest(uri, refuse) is None
    writer = Writer(uri, None)
    for number in (1, 2, 3):
        writer.submit(step(number), best_of(1) if number == 1 else None)
    writer.wait()
    found = checkpoints.newest(uri, refuse)
    assert found is not None
    assert found[1]["step"] == 3
    assert torch.equal(checkpoints.load_best(uri).weights["w"], torch.full((2,), 1.0))
    checkpoints.clear(uri)
    assert checkpoints.newest(uri, refuse) is None


def test_weights_that_nothing_refers_to_push_nothing_out(tmp_path: Path) -> None:
    uri = str(tmp_path)
    writer = Writer(uri, None)
    writer.submit(step(10), best_of(10))
    writer.submit(step(15))
    writer.wait()
    # Of an attempt that was killed before its own checkpoint of step 20 was whole.
    checkpoints.save(uri, Snapshot("best", 20, {"w": torch.full((2,), -1.0)}, {}))
    found = checkpoints.newest(uri, refuse)
    assert found is not None
    again = Writer(uri, found[1])
    again.submit(step(20), best_of(20))
    again.wait()
    (newest,) = tmp_path.glob("step-000000020-*")
    newest.write_bytes(b"damaged")
    found = checkpoints.newest(uri, lambda _: None)
    assert found is not None
    assert found[1]["step"] == 15
    assert len(list(tmp_path.glob("best-*"))) == 2
