"""The training script from outside: its files, its errors, and that no interruption changes a bit of its result."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from damage import seal
from PIL import Image

from bitnet import models, report, save
from bitnet.kernels.pointwise.finite import all_finite
from bitnet.storage import load_checkpoint
from bitnet.training import Trainer
from bitnet.training.run import locked

SCRIPT = Path(__file__).parents[2] / "examples" / "train_svhn.py"
METRICS = {"epoch", "train_loss", "train_accuracy", "test_accuracy", "images_per_second", "seconds"}

# Runs the script, but sends itself a signal right after step N, or when checkpoint N is about to get its name.
DRIVER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import train_svhn
from bitnet.training import Trainer
where, count, number = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
owner, name = (Trainer, "train_step") if where == "step" else (os, "replace")
original, calls = getattr(owner, name), 0
def signalling(*args):
    global calls
    calls += where == "step" or str(args[1]).endswith("checkpoint.h5")
    if where == "replace" and calls == count:
        os.kill(os.getpid(), number)
    result = original(*args)
    if where == "step" and calls == count:
        os.kill(os.getpid(), number)
    return result
setattr(owner, name, signalling)
sys.exit(train_svhn.main(sys.argv[5:]))
"""


@pytest.fixture
def options(svhn, tmp_path):
    """8 steps an epoch, 16 in all, saved every 3."""
    return ["--model", "D", "--data", str(svhn), "--epochs", "2", "--batch-size", "8", "--save-every", "3",
            "--out", str(tmp_path / "run")]  # fmt: skip


@pytest.fixture
def run(options, tmp_path, train_svhn, in_process):
    """run("--resume", ...) -> (exit code, stdout, stderr), in this process."""

    def run(*more):
        return in_process(train_svhn.main, *options, *more)

    run.out = tmp_path / "run"
    return run


@pytest.fixture(scope="module")
def whole(svhn, tmp_path_factory, train_svhn):
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train_svhn.main(["--model", "D", "--data", str(svhn), "--epochs", "2", "--batch-size", "8", "--threads", "1",
                            "--out", str(out)]) == 0  # fmt: skip
    return out


def results(folder):
    """What must be the same however the run was interrupted: all but measured times."""
    checkpoint = load_checkpoint(folder / "checkpoint.h5")
    arrays = {name: np.asarray(value).tobytes() for name, value in (checkpoint.model | checkpoint.optimizer).items()}
    more = checkpoint.more
    history = [{**record, "seconds": 0, "images_per_second": 0} for record in more["history"]]
    return arrays, history, more["random"], more["epoch"], more["step"]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def drive(where, count, number, *arguments):
    command = [sys.executable, "-c", DRIVER, str(SCRIPT.parent), where, str(count), str(number), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def refused(result, *parts):
    """The exit code is 2 and standard error is one sentence with all the parts."""
    code, _, err = result
    assert code == 2
    assert len(err.splitlines()) == 1 and err.startswith("train_svhn.py: ")
    for part in parts:
        assert part in err


def rewrite_config(folder, option, value):
    """A checkpoint with another setting, its digest made anew."""
    with h5py.File(folder / "checkpoint.h5", "a") as file:
        meta = json.loads(file["meta"][()])
        meta["more"]["notes" if option == "data" else "config"][option] = value
        del file["meta"]
        file["meta"] = json.dumps(meta)
    seal(folder / "checkpoint.h5")


class TestRun:
    def test_what_it_prints(self, run):
        code, out, err = run()
        assert code == 0 and err == ""
        lines = out.splitlines()
        assert lines[0].startswith("data: SVHN train (subset of 64)")
        assert any(line.startswith("layer ") for line in lines)
        assert len(re.findall(r"^conv[1-6] .*( +(popcount|byte_dot|float)){3}( \*)?$", out, re.MULTILINE)) == 6
        assert sum(line.startswith("epoch ") for line in lines) == 2
        assert "labels against predictions:" in lines

    def test_what_it_writes(self, whole):
        assert {path.name for path in whole.iterdir()} == {
            "checkpoint.h5", "metrics.jsonl", "curves.png", "confusion.png", "mistakes.png", "frozen.npz"
        }  # fmt: skip
        history = metrics(whole)
        assert [record["epoch"] for record in history] == [1, 2]
        assert all(record.keys() >= METRICS for record in history)
        assert history == load_checkpoint(whole / "checkpoint.h5").more["history"]
        for picture in whole.glob("*.png"):
            assert Image.open(picture).size > (500, 300)

    def test_threads_kernels_and_saves_change_no_bit(self, run, whole):
        assert run("--threads", "2", "--kernels", "float")[0] == 0
        assert results(run.out) == results(whole)

    def test_a_profile_changes_no_bit(self, run, whole):
        code, out, err = run("--profile")
        assert code == 0 and err == ""
        assert results(run.out) == results(whole)
        assert out.count("profile of 10 steps, milliseconds a step:") == 1
        rows = [line.split()[:3] for line in out.splitlines()]
        for part in ("forward", "weight"):
            assert any(row[:2] == ["conv2", part] for row in rows)
        assert "If all products took no time, a step would be" in out and "byte dot product" in out

    def test_a_look_inside_changes_no_bit(self, run, whole):
        code, _, err = run("--inside")
        assert code == 0 and err == ""
        assert (run.out / "inside.png").is_file()
        arrays, history, *others = results(run.out)
        for record in history:
            assert set(record.pop("inside")["gradients"]) == {f"conv{i}" for i in range(1, 7)}
        assert (arrays, history, *others) == results(whole)

    def test_the_folder_is_named_after_model_and_bits(self, svhn, train_svhn, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code = train_svhn.main(["--model", "D", "--bits", "1,1,2", "--data", str(svhn), "--epochs", "1"])
        assert code == 0 and (tmp_path / "runs" / "svhn-d-1-1-2" / "metrics.jsonl").is_file()

    def test_float(self, run):
        code, out, _ = run("--bits", "32,32,32", "--epochs", "1")
        assert code == 0 and "popcount" not in out


class TestInterruptions:
    @pytest.mark.parametrize(("where", "count"), [("step", 5), ("step", 12), ("replace", 3)])
    def test_a_kill_changes_no_bit(self, run, options, whole, where, count):
        assert drive(where, count, signal.SIGKILL, *options).returncode == -signal.SIGKILL
        assert 0 < load_checkpoint(run.out / "checkpoint.h5").more["step"] < 8
        code, out, _ = run("--resume")
        assert code == 0 and "continuing with step" in out
        assert results(run.out) == results(whole)
        assert [record["epoch"] for record in metrics(run.out)] == [1, 2]
        assert not (run.out / "checkpoint.h5.tmp").exists()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_request_to_stop_saves_and_tells_how_to_go_on(self, run, options, whole, number):
        result = drive("step", 4, number, *options)
        assert result.returncode == 128 + number and result.stderr == ""
        assert f"--resume --out {run.out}" in result.stdout.splitlines()[-1]
        assert load_checkpoint(run.out / "checkpoint.h5").more["step"] == 4
        if number == signal.SIGINT:  # once as a user would
            command = [sys.executable, str(SCRIPT), "--resume", "--out", str(run.out)]
            subprocess.run(command, capture_output=True, check=True, timeout=120)
        else:
            assert run("--resume")[0] == 0
        assert results(run.out) == results(whole)

    def test_a_kill_in_the_first_save_leaves_the_folder_usable(self, run, options):
        assert drive("replace", 1, signal.SIGKILL, *options).returncode == -signal.SIGKILL
        refused(run("--resume"), "found no checkpoint.h5")
        assert run()[0] == 0

    def test_again_and_again(self, run, whole, monkeypatch):
        step = Trainer.train_step

        def interrupted(trainer, batch):
            step(trainer, batch)
            os.kill(os.getpid(), signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", interrupted)
            assert run()[0] == 130
            for _ in range(10):
                assert run("--resume")[0] == 130
        assert run("--resume")[0] == 0
        assert results(run.out) == results(whole)
        assert [record["epoch"] for record in metrics(run.out)] == [1, 2]

    def test_before_training_there_is_one_sentence_and_no_traceback(self, run, monkeypatch, train_svhn):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(train_svhn, "load_digits", interrupted)
        code, _, err = run()
        assert code == 130 and len(err.splitlines()) == 1
        assert not run.out.exists()


class TestResume:
    @pytest.fixture
    def finished(self, whole, tmp_path):
        """A copy of the finished run, at the folder that ``run`` uses."""
        shutil.copytree(whole, tmp_path / "run")

    def test_a_finished_run_says_so(self, run, finished, whole):
        code, out, _ = run("--resume")
        assert code == 0 and "finished already after 2 epochs" in out
        assert results(run.out) == results(whole)

    def test_pictures_of_an_earlier_finish_are_replaced(self, run, finished):
        os.utime(run.out / "curves.png", (0, 0))
        assert "wrote metrics.jsonl" in run("--resume")[1]
        assert "wrote metrics.jsonl" not in run("--resume")[1]

    def test_lost_pictures_and_lines_come_back(self, run, finished, whole):
        (run.out / "metrics.jsonl").write_text("{half a li")
        (run.out / "confusion.png").unlink()
        assert run("--resume")[0] == 0
        for name in ("metrics.jsonl", "confusion.png"):
            assert (run.out / name).read_bytes() == (whole / name).read_bytes()

    @pytest.mark.parametrize("change", [os.unlink, lambda path: os.utime(path, (0, 0))])
    def test_a_frozen_network_that_a_kill_kept_from_being_written_is_made(self, run, finished, whole, change):
        change(run.out / "frozen.npz")
        assert run("--resume")[0] == 0
        frozen = run.out / "frozen.npz"
        assert frozen.stat().st_mtime >= (run.out / "checkpoint.h5").stat().st_mtime
        assert frozen.read_bytes() == (whole / "frozen.npz").read_bytes()

    def test_a_picture_that_cannot_be_drawn_keeps_no_frozen_network_back(self, run, finished, monkeypatch):
        def fail(*_):
            raise ZeroDivisionError

        (run.out / "frozen.npz").unlink()
        monkeypatch.setattr(report, "draw_curves", fail)
        with pytest.raises(ZeroDivisionError):
            run("--resume")
        assert (run.out / "frozen.npz").is_file()

    def test_a_second_run_into_the_folder_is_refused(self, run, finished):
        with locked(run.out):
            refused(run("--resume", "--epochs", "3"), "found another run training into it")
        assert run("--resume")[0] == 0 and not (run.out / ".lock").exists()

    def test_more_epochs_by_the_folder_alone(self, run, finished, train_svhn, capsys):
        assert train_svhn.main(["--resume", "--epochs", "3", "--out", str(run.out)]) == 0
        assert "3 epochs instead of 2: the learning rate follows the longer run from here on, and may be higher" in (
            capsys.readouterr().out)
        assert [record["epoch"] for record in metrics(run.out)] == [1, 2, 3]
        assert metrics(run.out)[2]["seconds"] > metrics(run.out)[1]["seconds"]

    @pytest.mark.parametrize(
        ("option", "value", "parts"),
        [
            ("--bits", "1,1,4", ["bits 1,2,4", "bits 1,1,4"]),
            ("--model", "C", ["model D", "model C"]),
            ("--batch-size", "16", ["batch size 8", "batch size 16"]),
            ("--lr", "0.01", ["lr 0.001", "lr 0.01"]),
            ("--lr-decay", "0.5", ["lr decay 0.3", "lr decay 0.5"]),
            ("--lr-decay-epochs", "2", ["lr decay epochs 6", "lr decay epochs 2"]),
            ("--seed", "7", ["seed 0", "seed 7"]),
            ("--epochs", "1", ["--epochs 2 or more", "found --epochs 1"]),
        ],
    )
    def test_contradictions(self, run, finished, option, value, parts):
        before = (run.out / "checkpoint.h5").read_bytes()
        refused(run("--resume", option, value), "checkpoint.h5", *parts)
        assert (run.out / "checkpoint.h5").read_bytes() == before

    def test_other_data(self, run, finished, svhn, tmp_path):
        other = tmp_path / "other"
        other.mkdir()
        for split, source in (("train", "test"), ("test", "train")):
            (other / f"{split}_32x32.mat").write_bytes((svhn / f"{source}_32x32.mat").read_bytes())
        refused(run("--resume", "--data", str(other)), "training data 'SVHN train (subset of 64)'", "(subset of 40)")

    def test_the_same_data_elsewhere(self, run, finished, svhn, tmp_path):
        other = tmp_path / "moved"
        other.mkdir()
        for path in svhn.iterdir():
            (other / path.name).write_bytes(path.read_bytes())
        assert run("--resume", "--data", str(other))[0] == 0

    @pytest.mark.parametrize(("option", "value"), [
        ("bits", [1, "", 4]), ("bits", None), ("model", "X\x1b"), ("method", ["bnn"]), ("lr", "quick"), ("lr_decay", -1),
        ("lr_decay_epochs", 0), ("batch_size", 8.5), ("seed", True), ("extra", 1), ("data", 7),
    ])  # fmt: skip
    def test_settings_that_no_option_can_have(self, run, finished, train_svhn, in_process, option, value):
        rewrite_config(run.out, option, value)
        result = in_process(train_svhn.main, "--resume", "--out", str(run.out))
        refused(result, f"expected the settings of a run of this script, found {option} ")
        assert result[2][:-1].isprintable()

    def test_a_run_of_another_script(self, run, finished, train_mnist, in_process):
        code, _, err = in_process(train_mnist.main, "--resume", "--out", str(run.out))
        assert code == 2 and err.count("\n") == 1 and "checkpoint.h5: expected a run of this script, found one without" in err

    @pytest.mark.parametrize("more, part", [({}, "found a saved model without its training"),
                                            ({"history": []}, "expected the progress of a run, found one that does not hold")])
    def test_a_saved_model(self, run, more, part):
        run.out.mkdir()
        save(run.out / "checkpoint.h5", models.svhn("D"), **more)
        refused(run("--resume"), "checkpoint.h5: ", part)

    def test_what_a_checkpoint_says_is_shown_as_plain_text(self, run, finished, train_svhn, in_process):
        rewrite_config(run.out, "lr", "\x1b[2J" + 5000 * "x")
        result = in_process(train_svhn.main, "--resume", "--out", str(run.out), "--lr", "1")
        refused(result, "it was made with lr")
        assert result[2][:-1].isprintable() and len(result[2]) < 2100

    def test_no_checkpoint(self, run):
        refused(run("--resume"), "expected a run to resume, found no checkpoint.h5")

    def test_a_checkpoint_cut_short(self, run, finished):
        path = run.out / "checkpoint.h5"
        path.write_bytes(path.read_bytes()[:5000])
        refused(run("--resume"), "expected a checkpoint, found one cut short or damaged")
        assert path.stat().st_size == 5000

    def test_not_a_checkpoint(self, run, finished):
        (run.out / "checkpoint.h5").write_text("hello")
        refused(run("--resume"), "expected a checkpoint in HDF5, found another kind of file")


class TestErrors:
    @pytest.mark.parametrize("value", ["1,2", "0,2,4", "1,9,4", "a", "1,2,4,8", "", "1,-2,4", "1.5,2,4", "33,32,32"])
    def test_bits(self, run, value):
        refused(run("--bits", value), "argument --bits: expected three numbers W,A,G", f"found {value!r}")

    @pytest.mark.parametrize(
        ("option", "value", "part"),
        [
            ("--model", "E", "invalid choice: 'E'"),
            ("--epochs", "0", "expected a whole number >= 1, found '0'"),
            ("--batch-size", "2.5", "expected a whole number >= 1, found '2.5'"),
            ("--batch-size", "65", "expected at least one batch of 65 images, found 64 images"),
            ("--lr", "nan", "expected a number > 0, found 'nan'"),
            ("--lr", "0", "expected a number > 0, found '0'"),
            ("--seed", "-1", "expected a whole number >= 0, found '-1'"),
            ("--threads", "0", "expected a whole number >= 1, found '0'"),
            ("--kernels", "gpu", "invalid choice: 'gpu'"),
            ("--save-every", "-1", "expected a whole number >= 0, found '-1'"),
        ],
    )
    def test_options(self, run, option, value, part):
        refused(run(option, value), part)
        assert not run.out.exists()

    def test_a_schedule_for_a_method_that_has_its_own(self, run):
        refused(run("--method", "twn", "--lr-decay", "0.5"), "expected --lr-decay or --method")
        assert not run.out.exists()

    def test_missing_data(self, run, tmp_path):
        refused(run("--data", str(tmp_path / "nothing")), "expected train_32x32.mat", "found no such folder")
        assert not run.out.exists()

    def test_data_cut_short(self, run, svhn, tmp_path):
        folder = tmp_path / "cut"
        folder.mkdir()
        for path in svhn.iterdir():
            (folder / path.name).write_bytes(path.read_bytes()[:9000])
        refused(run("--data", str(folder)), "train_32x32.mat")

    def test_a_folder_that_is_not_empty(self, run):
        run.out.mkdir()
        (run.out / "thesis.txt").write_text("mine")
        refused(run(), "expected a new or empty folder, found files; --resume continues")
        assert [path.name for path in run.out.iterdir()] == ["thesis.txt"]

    def test_a_folder_that_holds_what_systems_leave_is_an_empty_one(self, run, tmp_path, monkeypatch):
        run.out.mkdir()
        (run.out / ".DS_Store").write_bytes(b"junk")
        refused(run("--data", str(tmp_path / "nothing")), "found no such folder")  # one step later

    def test_home_folders(self, run, svhn, monkeypatch):
        monkeypatch.setenv("HOME", str(svhn.parent))
        monkeypatch.setattr(Trainer, "run", lambda trainer, stop: os.kill(os.getpid(), signal.SIGINT))  # at once
        assert run(f"--data=~/{svhn.name}", "--out=~/at home")[0] == 130
        assert load_checkpoint(svhn.parent / "at home" / "checkpoint.h5").more["notes"]["data"] == str(svhn)

    def test_a_batch_of_one(self, run):
        refused(run("--batch-size", "1"), "needs more than one value a channel in training", "a larger batch size helps")

    def test_a_file_in_place_of_the_folder(self, run):
        run.out.write_text("mine")
        refused(run(), "expected a new or empty folder, found a file")
        refused(run("--out", str(run.out / "below")), "Not a directory")
        assert run.out.read_text() == "mine"

    @pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that not even root may write to")
    def test_an_unwritable_folder(self, run):
        code, out, err = run("--out", "/proc/self/run")
        refused((code, out, err), "/proc/self/run")

    def test_a_disk_that_fills_up_while_training(self, run, monkeypatch):
        step = Trainer.train_step

        def filling(trainer, batch):
            step(trainer, batch)
            if trainer.step == 5:
                monkeypatch.setattr(os, "fsync", full)

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Trainer, "train_step", filling)
        refused(run(), "checkpoint.h5: No space left on device")
        assert load_checkpoint(run.out / "checkpoint.h5").more["step"] == 3
        assert [path.name for path in run.out.iterdir()] == ["checkpoint.h5"]

    def test_a_loss_that_is_not_finite(self, run, recwarn):
        code, _, err = run("--lr", "1e38", "--threads", "2")
        assert code == 1 and len(err.splitlines()) == 1
        assert not [one for one in recwarn if one.category is RuntimeWarning]  # NumPy's, which would be printed first
        assert "of epoch 1" in err and "not finite" in err and "the last good checkpoint is kept" in err
        checkpoint = load_checkpoint(run.out / "checkpoint.h5")
        assert all(all_finite(value) for value in checkpoint.model.values())
