"""The share of time in which a GPU waits, from a trace of each framework."""

import pathlib
import tempfile
from collections.abc import Iterable

# In nanoseconds: begin and end of what a device did.
Interval = tuple[float, float]
GPU, CPU = "/device:GPU", "/host:CPU"


class Trace:
    """A trace of what the GPU does between `start` and `idle_share`.

    Args:
        framework: `"tensorflow"`, `"jax"` or `"torch"`.
        device: The beginning of the device's name; `CPU` for a test.
    """

    def __init__(self, framework: str, device: str = GPU) -> None:
        self.framework = framework
        self.device = device
        self.folder = tempfile.TemporaryDirectory()

    def start(self) -> None:
        """Starts to trace the device, and the host as little as possible."""
        if self.framework == "torch":
            from torch import profiler

            kind = profiler.ProfilerActivity.CUDA
            if self.device == CPU:
                kind = profiler.ProfilerActivity.CPU
            self.profile = None
            if kind in profiler.supported_activities():
                self.profile = profiler.profile(activities=[kind])
                self.profile.start()
        elif self.framework == "jax":
            import jax

            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(self.folder.name, profiler_options=options)
        else:
            import tensorflow as tf

            options = tf.profiler.experimental.ProfilerOptions(
                python_tracer_level=0
            )
            tf.profiler.experimental.start(self.folder.name, options)

    def idle_share(self) -> float | None:
        """Stops the trace; `None` if there was no such device."""
        with self.folder:
            return idle_share(self._intervals())

    def _intervals(self) -> list[Interval]:
        if self.framework == "torch":
            return self._of_torch()
        if self.framework == "jax":
            import jax

            jax.profiler.stop_trace()
        else:
            import tensorflow as tf

            tf.profiler.experimental.stop()
        (file,) = pathlib.Path(self.folder.name).rglob("*.xplane.pb")
        of_plane = _of_jax if self.framework == "jax" else _of_tensorflow
        return of_plane(file, self.device)

    def _of_torch(self) -> list[Interval]:
        if self.profile is None:
            return []
        from torch.autograd import DeviceType

        self.profile.stop()
        kind = DeviceType.CPU if self.device == CPU else DeviceType.CUDA
        return [
            (1e3 * event.time_range.start, 1e3 * event.time_range.end)
            for event in self.profile.events()
            if event.device_type == kind
        ]


def _of_jax(file: pathlib.Path, device: str) -> list[Interval]:
    import jax

    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    return [
        (event.start_ns, event.start_ns + event.duration_ns)
        for plane in planes
        if plane.name.startswith(device)
        for line in plane.lines
        if _is_of_device(line.name, device)
        for event in line.events
    ]


def _of_tensorflow(file: pathlib.Path, device: str) -> list[Interval]:
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(file.read_bytes())
    found = []
    for plane in space.planes:
        if plane.name.startswith(device):
            for line in plane.lines:
                if _is_of_device(line.name, device):
                    for event in line.events:
                        begin = line.timestamp_ns + event.offset_ps / 1e3
                        found.append((begin, begin + event.duration_ps / 1e3))
    return found


def _is_of_device(line: str, device: str) -> bool:
    """Whether a line of a trace has what ran on a stream of a GPU.

    The profiler derives other lines from these, such as "Steps", which include
    the time in which the GPU waits.
    """
    return device == CPU or line.startswith("Stream")


def idle_share(intervals: Iterable[Interval]) -> float | None:
    """The share of the time from first to last in which nothing ran."""
    intervals = sorted(intervals)
    if not intervals:
        return None
    begin, until = intervals[0]
    first, idle = begin, 0.0
    for begin, end in intervals:
        idle += max(0.0, begin - until)
        until = max(until, end)
    return idle / (until - first) if until > first else 0.0
