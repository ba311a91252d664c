"""PyTorch in two processes with gloo: the same numbers as in one."""

import csv
import json
import sys
import time

import numpy as np
import pytest
from launching import assert_same
from launching import assert_same_averages
from launching import finish
from launching import free_addresses
from launching import start
from launching import succeed
from training_case import darker_at_the_end
from training_case import data

pytest.importorskip("torch")
# Two or three processes each; CI runs the first two tests.
pytestmark = pytest.mark.slow

# The sums of a batch are taken in another order; seen: 2e-6, of CAS.
TOLERANCE = 1e-5
# Far below the 30 minutes that a group of gloo waits for a silent process.
NOTICED_WITHIN = 60


def start_two(folder, case, die=None):
    """Starts both processes as `torchrun` does; `die` is (process, step)."""
    host, port = free_addresses(1)[0].split(":")
    return [
        start(
            "torch_run.py",
            folder,
            case,
            *(die or ()),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR=host,
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]


def found_in(folder, processes=2):
    paths = (folder / f"results_{rank}.json" for rank in range(processes))
    return [json.loads(path.read_text()) for path in paths]


def of_one_and_two(tmp_path_factory, case):
    """What one process found, and each of two."""
    folder = tmp_path_factory.mktemp(case)
    succeed(start("torch_run.py", folder / "one", case))
    succeed(*start_two(folder / "two", case))
    return *found_in(folder / "one", 1), *found_in(folder / "two"), folder


@pytest.fixture(scope="module")
def whole_job(tmp_path_factory):
    return of_one_and_two(tmp_path_factory, "main")


def test_two_processes_train_and_evaluate_as_one(whole_job):
    one, chief, other, _ = whole_job
    assert_same(one, chief, TOLERANCE)
    assert_same(chief, other, 0)
    assert one["checks"] and one["checks"] == chief["checks"]
    # They learn something, so that there is something to disagree in.
    assert one["history"]["val_loss"][-1] < one["history"]["val_loss"][0] - 0.1
    for key, value in chief["evaluated"].items():
        last = chief["history"][f"val_{key}"][-1]
        assert value == pytest.approx(last, abs=1e-6)


def test_only_the_chief_writes(whole_job):
    _, chief, other, folder = whole_job
    assert (chief["backups"], other["backups"]) == (4, 0)
    with open(folder / "two" / "log.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == list("0123")
    assert (folder / "two" / "best.keras").exists()


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    return of_one_and_two(tmp_path_factory, "more")[:3]


def test_pipelines_are_divided(more):
    one, *two = (results["pipeline"] for results in more)
    for found in two:
        assert_same(one, found, TOLERANCE)
        # On the first images of the pipeline, which no process has alone.
        assert found["checks"] == one["checks"]


def test_averages_are_those_of_one_process(more):
    one, *two = (results["averages"] for results in more)
    for found in two:
        assert_same_averages(one, found, TOLERANCE)


def test_processes_keep_one_teacher_whatever_they_draw(more):
    _, chief, other = (results["drawn"] for results in more)
    assert chief == other


def test_half_precision_scales_the_loss_alike(more):
    one, chief, other = (results["half"] for results in more)
    # Float16 rounds each share of the gradients by itself; seen: 7e-4.
    assert_same(one, chief, 5e-3)
    assert_same(chief, other, 0)


def test_the_optimizer_sees_the_gradient_of_the_whole_batch(more):
    one, *two = (results["trades"] for results in more)
    for found in two:
        for name, values in one["history"].items():
            np.testing.assert_allclose(
                values, found["history"][name], rtol=0, atol=TOLERANCE
            )
        for a, b in zip(one["weights"], found["weights"], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)


def test_weights_are_perturbed_by_the_gradient_of_the_whole_batch(more):
    one, *two = (results["awp"] for results in more)
    for found in two:
        np.testing.assert_allclose(one["loss"], found["loss"], rtol=1e-5)
        for a, b in zip(one["weights"], found["weights"], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)


def test_moving_statistics_are_the_mean_of_those_of_the_shares(more):
    x = darker_at_the_end(data(12, False)[0])
    mean = np.mean(x, axis=(0, 1, 2))
    shares = x.reshape(2, 6, 4, 4, 1)
    variance = np.mean(np.var(shares, axis=(1, 2, 3)), axis=0)
    _, *two = (results["statistics"] for results in more)
    for found in two:
        # They begin with 0 and 1, at a momentum of 0.5.
        np.testing.assert_allclose(found[0], mean / 2, rtol=1e-5)
        np.testing.assert_allclose(found[1], (1 + variance) / 2, rtol=1e-5)
    assert abs(variance - np.var(x)) > 1e-2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    succeed(*start_two(folder, "dropout"))
    return found_in(folder)


@pytest.mark.parametrize("dead", [1, 0], ids=["other", "chief"])
def test_a_dead_process_ends_the_job_which_resumes(undisturbed, tmp_path, dead):
    job = tmp_path / "job"
    # In the third of four epochs.
    processes = start_two(job, "dropout", die=(dead, 10))
    processes[dead].wait(timeout=300)
    died = time.monotonic()
    ended = finish(*processes, timeout=NOTICED_WITHIN)
    assert time.monotonic() - died < NOTICED_WITHIN
    assert ended[dead][0] == -9
    status, output = ended[1 - dead]
    assert status != 0 and "Another one has ended" in output, output[-3000:]
    # The same command again. Each process draws the same dropout.
    succeed(*start_two(job, "dropout"))
    for expected, found in zip(undisturbed, found_in(job), strict=True):
        assert_same(expected, found, 0)


def test_a_silent_process_ends_the_job_within_the_limit_of_the_group(tmp_path):
    begun = time.monotonic()
    waiting, silent = start_two(tmp_path, "silent")
    status, output = finish(waiting, timeout=200)[0]
    silent.kill()
    finish(silent)
    # The limit is 10 seconds; the rest is the time to start.
    assert time.monotonic() - begun < 200
    assert status != 0 and "could not exchange values" in output, output[-3000:]


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    succeed(*start_two(folder, "refused"))
    return found_in(folder)


def test_what_cannot_be_right_is_refused_in_every_process(refused):
    expected = {
        "arrays": "other labels, of lengths [20, 20]",
        "lengths": "Received: [3, 2] batches in `x`",
        "batch_size": "`batch_size` must be at least 2",
        "model": "must make the same model",
        "reestimate": "needs the same images in each of several processes",
        "nan": "1 image(s) of epoch 1, batch 2 contain NaN",
    }
    for found in refused:
        assert found["messages"].keys() == expected.keys()
        for name, message in expected.items():
            assert message in found["messages"][name]


def test_processes_have_the_same_weights_and_draw_other_numbers(refused):
    chief, other = refused
    assert chief["weights"] == other["weights"]
    for mine, others in zip(chief["drawn"], other["drawn"], strict=True):
        assert 0 < np.mean(mine == np.zeros(64)) < 1
        assert mine != others


def test_torchrun_needs_a_process_group(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    torchrun += ["--standalone", "--nproc-per-node=2"]
    process = start("torch_run.py", tmp_path, "alone", command=torchrun)
    ((status, output),) = finish(process)
    assert status != 0
    assert "`torchrun` has started 2 processes" in output, output[-3000:]
