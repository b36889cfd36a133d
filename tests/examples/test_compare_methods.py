"""The comparison from outside: its table, its pictures, and that it goes on where it was stopped."""

import json
import os
import signal

import pytest
from PIL import Image

from bitnet import methods, save
from bitnet.methods.dorefa import TABLE_1
from bitnet.training import Trainer, compare
from bitnet.training.run import locked

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(autouse=True)
def measured_briefly(monkeypatch):
    monkeypatch.setattr(compare, "MEASURED", 0.05)


@pytest.fixture
def run(mnist, tmp_path, compare_methods, in_process):
    """run(...) -> (exit code, stdout, stderr), in this process."""

    def run(*more, data=mnist):
        out = tmp_path / "out"
        return in_process(compare_methods.main, "--data", str(data), "--out", str(out), "--minutes", "0.005", *more)

    run.out = tmp_path / "out"
    return run


def rows(folder):
    return {row["name"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}


def test_table_files_and_pictures(run):
    code, out, err = run("--methods", "float", "bnn", "dorefa:1,1,4", "twn")
    assert code == 0 and err == ""
    assert {path.name for path in run.out.iterdir()} == {"float", "bnn", "dorefa-1-1-4", "twn", "results.json", "results.txt",
                                                         "error.png"}  # fmt: skip
    found = rows(run.out)
    assert found["bnn"]["published"] == list(methods.get("bnn").published["mnist"])
    assert found["dorefa-1-1-4"]["bits"] == [1, 1, 4] and found["dorefa-1-1-4"]["published"] is None
    assert found["float"]["bit_share_training"] == 0 and found["bnn"]["bit_share_inference"] == 1
    assert 0 < found["bnn"]["bit_share_training"] < 0.5  # gradients are real: forward alone
    assert found["twn"]["packed"] < found["float"]["packed"] / 8
    for name in found:
        assert any(line.startswith(name) for line in out.splitlines())
    assert (run.out / "results.txt").read_text() in out
    assert Image.open(run.out / "error.png").size > (1000, 400)


def test_several_seeds_are_one_row_with_a_standard_error(run):
    code, out, err = run("--methods", "bnn", "--seeds", "2", "--seed", "5")
    found = rows(run.out)
    assert code == 0 and err == "" and [found[name]["seed"] for name in ("bnn", "bnn-seed-6")] == [5, 6]
    errors = [row["error"] for row in found.values()]
    deviation = abs(errors[0] - errors[1]) / 2  # standard deviation / sqrt(2)
    assert f"{sum(errors) / 2:.2f} +- {deviation:.2f} %" in out and "standard error of the mean" in out
    (row,) = compare.together([compare.Entry("bnn", seed=5, repeat=i) for i in range(2)], found)
    assert row["name"] == "bnn" and row["seeds"] == 2 and row["deviation"] == pytest.approx(deviation)
    code, out, _ = run("--methods", "bnn", "--seed", "5")  # of these, only the first
    assert code == 0 and "+-" not in out and "bnn:" not in out


def test_it_goes_on_where_it_was_stopped(run, monkeypatch):
    step, steps = Trainer.train_step, []

    def stopping(trainer, batch):
        step(trainer, batch)
        if trainer.checkpoint is not None:
            steps.append(trainer)
            if len(steps) == 1:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopping)
        code, out, _ = run("--methods", "dorefa", "bnn")
    assert code == 130 and "go on with the same command" in out and rows(run.out) == {}
    code, out, _ = run("--methods", "dorefa", "bnn")
    assert code == 0 and "continuing with step" in out and set(rows(run.out)) == {"dorefa", "bnn"}
    # what is finished is not trained again, another method is added
    code, out, _ = run("--methods", "dorefa", "xnor")
    assert code == 0 and "dorefa:" not in out and set(rows(run.out)) == {"dorefa", "bnn", "xnor"}


def test_results_of_another_budget_or_of_other_data_are_not_mixed(run, svhn):
    assert run("--methods", "bnn")[0] == 0
    kept = (run.out / "results.json").read_bytes()
    for more, part in ((["--minutes", "3"], "expected results of 3 minutes each on"), ([], "--out names another folder")):
        code, _, err = run("--methods", "bnn", *more, **({} if more else {"data": "synthetic"}))
        assert code == 2 and len(err.splitlines()) == 1 and part in err
        assert (run.out / "results.json").read_bytes() == kept
    (run.out / "results.json").unlink()  # trainings know it, too
    code, _, err = run("--methods", "bnn", "--minutes", "3")
    assert code == 2 and "checkpoint.h5: expected a training of 3 minutes, found one of 0.005" in err


@pytest.mark.parametrize("change", [
    lambda rows: rows.append("row"), lambda rows: rows[0].pop("packed"), lambda rows: rows[0].update(error="0.1"),
    lambda rows: rows[0].update(minutes=None), lambda rows: rows[0].update(error=float("nan")),
    lambda rows: rows[0].pop("name"), lambda rows: rows[0].update(name=["bnn"]), lambda rows: rows[0].update(packed=0),
])
@pytest.mark.parametrize("checksum", [True, False])
def test_results_that_are_none(change, checksum, tmp_path, capsys):
    budget, path = {"data": "MNIST", "minutes": 3}, tmp_path / "results.json"
    rows = [{"name": "bnn"} | dict.fromkeys(compare.NUMBERS, 1)]
    compare.write_rows(path, budget, {"bnn": rows[0]})
    assert compare.saved_rows(path, budget) == rows and capsys.readouterr().out == ""
    change(rows)
    path.write_text(json.dumps(budget | {"rows": rows} | ({"checksum": compare._checksum(budget, rows)} if checksum else {})))
    assert compare.saved_rows(path, budget) == []
    assert capsys.readouterr().out.startswith(f"{path}: expected results as they were written, found others; made again of")


def test_damaged_results_are_made_again_of_the_checkpoints(run, monkeypatch):
    assert run("--methods", "bnn")[0] == 0
    path, before = run.out / "results.json", rows(run.out)
    monkeypatch.setattr(Trainer, "train_step", None)
    for content in ("{", "[" * 100_000, json.dumps([before]), path.read_text().replace('"error": ', '"error": 1')):
        path.write_text(content)  # the last one is well formed: an error of 190 per cent in the place of 90
        code, out, err = run("--methods", "bnn")
        assert code == 0 and err == "" and out.count("results.json: expected results as they were written, found others") == 1
        assert rows(run.out)["bnn"]["error"] == before["bnn"]["error"]


def test_a_saved_model_in_the_place_of_a_training(run):
    (run.out / "bnn").mkdir(parents=True)
    save(run.out / "bnn" / "checkpoint.h5", methods.build("bnn"))
    code, _, err = run("--methods", "bnn")
    assert code == 2 and err.count("\n") == 1
    assert "bnn/checkpoint.h5: expected the checkpoint of a run, found a saved model without its training" in err


def test_what_a_method_is_is_not_read_from_the_results(run):
    assert run("--methods", "bnn")[0] == 0
    table = (run.out / "results.txt").read_text()
    results = json.loads((run.out / "results.json").read_text())
    results["rows"][0].update(published=7, bits="x", method="\x1b[2J", model=[])
    del results["checksum"]  # as a version before this one left it
    (run.out / "results.json").write_text(json.dumps(results))
    assert run("--methods", "bnn")[0] == 0 and (run.out / "results.txt").read_text() == table


def test_dorefas_table(run, svhn):
    code, out, _ = run("--table-1", "--models", "D", "--bits", "1,2,4", "32,32,32", data=svhn)
    found = rows(run.out)
    assert code == 0 and set(found) == {"dorefa-D-1-2-4", "float-D-32-32-32"}
    assert found["dorefa-D-1-2-4"]["published"][0] == pytest.approx(12.2)
    assert found["dorefa-D-1-2-4"]["bit_share_training"] > 0.5 and "12.20 %" in out


def test_a_folder_is_compared_in_by_one_program_at_a_time(run):
    with locked(run.out):
        code, _, err = run("--methods", "bnn")
    assert code == 2 and "found another run training into it" in err and len(err.splitlines()) == 1
    assert not (run.out / "results.json").exists()


def test_the_whole_table_is_there(compare_methods):
    chosen = compare_methods.entries(compare_methods.parse(["--table-1"]))
    assert len(chosen) == 4 * len(TABLE_1) and len({entry.name for entry in chosen}) == len(chosen)
    assert all(entry.published() for entry in chosen) and {entry.batch_size for entry in chosen} == {32}


@pytest.mark.parametrize("options, part", [
    (["--methods", "tnw"], "got 'tnw'"), (["--methods", "bnn:2,1,32"], "bnn has 1 bits for W, got 2"),
    (["--methods", "bnn", "bnn"], "expected different methods"), (["--table-1", "--methods", "bnn"], "found several"),
    (["--models", "A"], "with --table-1 only"), (["--minutes", "0"], "> 0"),
])
def test_what_cannot_be_followed_is_one_sentence(run, options, part):
    code, _, err = run(*options)
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith("compare_methods.py: ") and part in err
