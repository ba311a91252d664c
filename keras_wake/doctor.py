"""Says what keras-wake finds on this machine: `python -m keras_wake.doctor`.

It prints the versions, the backend and its devices, the precision, what
`jit_compile="auto"` does here and why, whether the CPU computes bfloat16, and
whether TensorFlow's threads are set as the README advises. A report of a bug
starts with it. The exit code is 1 if Keras, or its backend, cannot be imported.

`import keras_wake` does not import this module; Keras is imported where it is
needed, because the report must say what is wrong with it.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sys
from collections.abc import Callable

from keras_wake._version import __version__

_PACKAGES = ("keras", "tensorflow", "jax", "jaxlib", "torch", "numpy")
_BACKENDS = ("tensorflow", "jax", "torch")
# What Linux calls the instructions that multiply matrices of bfloat16.
_BFLOAT16 = {"avx512_bf16": "AVX512_BF16", "amx_bf16": "AMX"}


def main() -> int:
    """Prints the report.

    Returns:
        0, or 1 if keras-wake cannot be used: Keras or its backend cannot be
        imported.

    Example:

    ```python
    from keras_wake import doctor

    exit_code = doctor.main()
    ```
    """
    _print("keras-wake", lambda: __version__)
    _print("Python", _python)
    _print("packages", _packages)
    _print("CPU", _cpu)
    _print("KERAS_BACKEND", lambda: os.environ.get("KERAS_BACKEND", "not set"))
    fault = _fault()
    if fault:
        _print("fault", lambda: fault)
        return 1
    _print("backend", _backend)
    _print("devices", _devices)
    _print("precision", _precision)
    _print('jit_compile="auto"', _jit)
    _print("compiled steps", _cache)
    _print("CPU threads", _threads)
    return 0


def _print(name: str, find: Callable[[], str]) -> None:
    """Prints a line at once: the next one may end the process."""
    try:
        text = find()
    except Exception as error:  # A report with a gap is better than none.
        text = f"not known, because of {type(error).__name__}: {error}"
    line = f"{name + ':':20}{text}\n"
    # The output may be a terminal or a file of any encoding.
    sys.stdout.write(line.encode("ascii", "backslashreplace").decode())
    sys.stdout.flush()


def _python() -> str:
    return f"{platform.python_version()}, {platform.platform()}"


def _packages() -> str:
    return ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)


def _version(name: str) -> str:
    """The version of a package; it may come from a build of another name."""
    if not _is_installed(name):
        return "missing"
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        builds = importlib.metadata.packages_distributions().get(name, [])
        found = [f"{importlib.metadata.version(b)} ({b})" for b in builds]
        return " and ".join(found) or "of unknown version"


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _cpu() -> str:
    name, flags = _cpu_info()
    text = f"{name or platform.machine()}, {_cores()} cores"
    if flags is None:
        return text  # Its instructions are not known.
    found = [_BFLOAT16[flag] for flag in _BFLOAT16 if flag in flags]
    if not found:
        return (
            f"{text}; neither AVX512_BF16 nor AMX: mixed_bfloat16 does not "
            "pay off on it"
        )
    return (
        f"{text}; {' and '.join(found)}: use mixed_bfloat16 (or attack_dtype) "
        "for wide networks, with TensorFlow or PyTorch"
    )


def _cpu_info(
    path: str | os.PathLike[str] = "/proc/cpuinfo",
) -> tuple[str, frozenset[str] | None]:
    """The name of the first CPU and its instruction sets, where Linux knows."""
    try:
        text = pathlib.Path(path).read_text(errors="replace")
    except OSError:
        return "", None
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    flags = found.get("flags")  # Only on x86.
    return (
        found.get("model name", ""),
        None if flags is None else frozenset(flags.split()),
    )


def _cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Not on Linux.
        return os.cpu_count() or 1


def _fault() -> str:
    """Why keras-wake cannot be used, in words; or nothing."""
    try:
        from keras_wake import backend  # noqa: F401
    except Exception as error:
        return (
            "Keras and its backend cannot be imported: "
            f"{type(error).__name__}: {str(error).rstrip('.')}. {_way_out()}"
        )
    return ""


def _way_out() -> str:
    if not _is_installed("keras"):
        return "Install keras-wake with its requirements (see README.md)."
    there = [name for name in _BACKENDS if _is_installed(name)]
    if not there:
        return (
            "There is none. Install one, with pip install -e '.[NAME]': "
            f"{', '.join(_BACKENDS)}."
        )
    return (
        f"Set KERAS_BACKEND to one that works (there: {', '.join(there)}), or "
        "install the backend again (see README.md)."
    )


def _backend() -> str:
    import keras

    name = keras.backend.backend()
    if os.environ.get("KERAS_BACKEND"):
        return name
    return f"{name}, from ~/.keras/keras.json or Keras's default"


def _devices() -> str:
    from keras_wake import backend

    found = backend.accelerators()
    if found:
        return ", ".join(found)
    text = "only the CPU"
    if pathlib.Path("/proc/driver/nvidia/version").exists():
        text += (
            ", although there is a driver of NVIDIA: the backend is not "
            "installed for GPUs (see README.md)"
        )
    return text


def _precision() -> str:
    import keras

    return f"{keras.config.dtype_policy().name}, floatx {keras.config.floatx()}"


def _jit() -> str:
    import keras

    from keras_wake import backend

    name, xla = keras.backend.backend(), backend.jit_by_default()
    if name == "torch":
        return (
            "no torch.compile, which was still compiling a step after two "
            "minutes; jit_compile=True traces the network for the attack"
        )
    if name == "jax":
        how = "a loop" if backend.accelerators() else "unrolled: loops are slow"
        return f"XLA for the whole step; the attack is {how} on this device"
    if not xla:
        return (
            "no XLA: on a CPU, a step takes ten times as long with it as "
            "without"
        )
    return (
        "XLA for the whole step; with several replicas for the attack alone, "
        "because a step with their sums in it may hang (keras#20763)"
    )


def _cache() -> str:
    import keras

    if keras.backend.backend() != "jax":
        return "not kept (only JAX keeps them)"
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not folder:
        return "not kept; the examples set JAX_COMPILATION_CACHE_DIR"
    return f"kept in JAX_COMPILATION_CACHE_DIR={folder}"


def _threads() -> str:
    import keras

    from keras_wake import backend

    if keras.backend.backend() != "tensorflow":
        return "the README advises nothing for this backend"
    if backend.accelerators():
        return "with a GPU, TensorFlow chooses by itself"
    cores = _cores()
    advised = {
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_NUM_INTRAOP_THREADS": str((cores + 1) // 2),
        "TF_NUM_INTEROP_THREADS": "2",
    }
    wrong = [
        f"{name}={value} (now {os.environ.get(name, 'not set')})"
        for name, value in advised.items()
        if os.environ.get(name) != value
    ]
    if not wrong:
        return "as the README advises"
    return (
        "not as the README advises, which is faster: set "
        f"{', '.join(wrong)}. The examples do so by themselves"
    )


if __name__ == "__main__":
    sys.exit(main())
