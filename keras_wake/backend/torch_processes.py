"""What the processes of `torch.distributed` exchange.

Each process runs the same script on its share of every batch, on one device.
The steps of training and those of evaluation have a process group each. So if
processes come to have other numbers of batches, they wait for each other until
the group's time is over, and never add what does not belong together.
"""

import contextlib
import datetime
import os
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import distributed

# Far apart, because Keras adds the number of the draw to the seed.
_BETWEEN_SEEDS = 0x3C6EF35F

# The groups of the steps, for the group that `init_process_group` has made.
_groups: tuple[Any, dict[str, Any]] | None = None
# That of the step which runs.
_group: Any = None


def rank_and_count() -> tuple[int, int]:
    """Number of this process, from 0, and how many there are.

    Raises:
        ValueError: If `torchrun` has started several which do not know of each
            other: each would train by itself and write the same files.
    """
    if not distributed.is_available():
        return 0, 1
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > 1 and distributed.is_torchelastic_launched():
        raise ValueError(
            f"`torchrun` has started {started} processes, which do not know of "
            "each other yet. Call `torch.distributed.init_process_group()` "
            "before the model is made."
        )
    return 0, 1


def take_own_gpu() -> None:
    """Has Keras compute on the GPU of this process, if it has one of several.

    Keras would put the variables of all processes on the first one.
    """
    local = os.environ.get("LOCAL_RANK")
    gpus = torch.cuda.device_count() if local else 0
    # One that alone is visible is the process's own.
    if local and gpus > 1:
        if int(local) >= gpus:
            raise ValueError(
                "Each process needs a GPU of its own. Received: process "
                f"{local} on this host, counted from 0, and {gpus} GPUs. Start "
                f"fewer: `torchrun --nproc-per-node={gpus}`."
            )
        torch.cuda.set_device(int(local))


@contextlib.contextmanager
def step(phase: str) -> Iterator[None]:
    """The block is a step of `"train"` or of `"test"`."""
    global _group
    if rank_and_count()[1] > 1:
        _group = _groups_of_steps()[phase]
    try:
        yield
    finally:
        _group = None


def _groups_of_steps() -> dict[str, Any]:
    """The groups of the steps; the first call is made by all processes."""
    global _groups
    world = distributed.group.WORLD
    if _groups is None or _groups[0] is not world:
        limit = _time_limit()
        _groups = (
            world,
            {
                phase: distributed.new_group(timeout=limit)
                for phase in ("train", "test")
            },
        )
    return _groups[1]


def _time_limit() -> datetime.timedelta | None:
    """How long the group of `init_process_group` waits for a process.

    None, for PyTorch's default, if a version of PyTorch does not tell.
    """
    world: Any = distributed.group.WORLD
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # There is no public name for it.
        return world._get_backend(device).options._timeout
    except (AttributeError, RuntimeError):
        return None


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """Says what it means if the processes cannot exchange values."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            "The processes could not exchange values. Another one has ended "
            "or was killed, or has data of another length: see what it "
            "printed. Then start all of them again; with `BackupAndRestore` "
            f"they go on after the last complete epoch. ({error})"
        ) from error


def sums(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The sum of each tensor over all processes, in one message."""
    if rank_and_count()[1] == 1 or not tensors:
        return list(tensors)
    message = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    with _exchange():
        distributed.all_reduce(message, group=_group)
    parts = message.split([tensor.numel() for tensor in tensors])
    return [
        part.view(tensor.shape).to(tensor.dtype)
        for part, tensor in zip(parts, tensors, strict=True)
    ]


@contextlib.contextmanager
def changes_shared(
    find_summed: Callable[[], Sequence[Any]],
    find_averaged: Callable[[], Sequence[Any]] = tuple,
) -> Iterator[None]:
    """Makes changes of variables in the block those of all processes.

    Args:
        find_summed: Returns the variables which change by the sum of all
            changes. Called only where there are several processes.
        find_averaged: Returns the variables and buffers which change by the
            mean. What does not change in any process stays as it is, to the
            last bit.
    """
    count = rank_and_count()[1]
    if count == 1:
        yield
        return
    summed = find_summed()
    changed = [*summed, *find_averaged()]
    before = [_tensor_of(value).clone() for value in changed]
    yield
    tensors = [_tensor_of(value) for value in changed]
    with torch.no_grad():
        pairs = zip(tensors, before, strict=True)
        changes = sums([tensor - old for tensor, old in pairs])
        for number, change in enumerate(changes):
            divisor = 1 if number < len(summed) else count
            tensors[number].copy_(before[number] + change / divisor)


def _tensor_of(value: Any) -> torch.Tensor:
    """The tensor of a variable or buffer, whose values it shares."""
    return getattr(value, "value", value).detach()


def positions(size: int, device: torch.device) -> torch.Tensor:
    """Positions of this process's `size` images in the batch of all.

    Processes have consecutive shares of it.
    """
    rank, count = rank_and_count()
    own = torch.arange(size, dtype=torch.int32, device=device)
    if count == 1:
        return own
    sizes = torch.zeros(count, dtype=torch.int32, device=device)
    sizes[rank] = size
    (sizes,) = sums([sizes])
    return own + sizes[:rank].sum().to(torch.int32)


def of_all(value: Any) -> list[Any]:
    """The `value` of each process; every process must make this call."""
    count = rank_and_count()[1]
    if count == 1:
        return [value]
    found: list[Any] = [None] * count
    with _exchange():
        distributed.all_gather_object(found, value)
    return found


def equalise(variables: Sequence[Any]) -> None:
    """Gives variables and buffers the values that they have in the chief.

    Random states become others in each process, which follow from those of
    the chief: dropout draws other numbers for each share of a batch, and a
    backup of the chief is enough to draw the same ones again.

    Raises:
        ValueError: If another process has other variables.
    """
    rank, count = rank_and_count()
    if count == 1:
        return
    _groups_of_steps()
    tensors = [_tensor_of(variable) for variable in variables]
    shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
    random = (torch.get_rng_state(), *torch.cuda.get_rng_state_all())
    seed = zlib.crc32(b"".join(state.numpy().tobytes() for state in random))
    found = of_all((len(shapes), zlib.crc32(repr(shapes).encode()), seed))
    if any(other[:2] != found[0][:2] for other in found):
        raise ValueError(
            "Every process must make the same model and optimizer. Received: "
            f"{[other[0] for other in found]} variables in the processes, or "
            "variables of other shapes or dtypes."
        )
    for variable, tensor in zip(variables, tensors, strict=True):
        # As bytes: backends lack some dtypes.
        own = tensor.contiguous().reshape(-1)
        with _exchange():
            distributed.broadcast(own.view(torch.uint8), 0)
        if rank and getattr(variable, "name", "") == "seed_generator_state":
            # It wraps around, as 32-bit integers do.
            far = (np.uint32(_BETWEEN_SEEDS) * np.uint64(rank)) & 0xFFFFFFFF
            own[0] += int(np.uint32(far).view(np.int32))
        tensor.copy_(own.view(tensor.shape))
    if rank:
        torch.manual_seed(found[0][2] + rank)
