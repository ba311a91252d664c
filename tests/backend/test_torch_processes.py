"""What is set before PyTorch's processes exchange anything."""

import keras
import pytest

if keras.backend.backend() != "torch":
    pytest.skip("processes of PyTorch", allow_module_level=True)

import torch
from small import data
from small import wake

from keras_wake.backend import torch_processes


@pytest.fixture
def gpus(monkeypatch):
    """Stands for a host with GPUs; returns those that were chosen."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)

    def set_gpus(count, local_rank):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        chosen.clear()
        torch_processes.take_own_gpu()
        return chosen

    return set_gpus


def test_each_process_takes_the_gpu_of_its_number(gpus, monkeypatch):
    assert gpus(4, 3) == [3]
    # One that alone is visible, or none.
    assert gpus(1, 3) == gpus(0, 3) == []
    with pytest.raises(ValueError, match=r"process 4 on this host.*4 GPUs"):
        gpus(4, 4)
    monkeypatch.delenv("LOCAL_RANK")
    torch_processes.take_own_gpu()


def test_torchrun_without_a_group_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    # Set by another launcher, for another program.
    assert torch_processes.rank_and_count() == (0, 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    with pytest.raises(ValueError, match=r"2 processes.*init_process_group"):
        torch_processes.rank_and_count()


def test_a_lost_process_is_explained(monkeypatch):
    def all_reduce(*args, **kwargs):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch_processes, "rank_and_count", lambda: (0, 2))
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    with pytest.raises(RuntimeError, match=r"Another one.*closed by peer"):
        torch_processes.sums([torch.ones(2)])


def test_a_distribution_of_keras_is_refused():
    model = wake()
    x, y = data()
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=["cpu:0"])
    )
    try:
        for call in (
            wake,
            lambda: model.fit(x, y, verbose=0),
            lambda: model.evaluate(x, y, verbose=0),
        ):
            with pytest.raises(ValueError, match="Received: DataParallel"):
                call()
    finally:
        keras.distribution.set_distribution(None)
