"""What `python -m keras_wake.doctor` finds, and what is missing."""

import ast
import os
import pathlib
import subprocess
import sys

import keras
import pytest
from small import wake

import keras_wake as kw
from keras_wake import backend
from keras_wake import doctor

BACKEND = keras.backend.backend()
ROOT = pathlib.Path(kw.__file__).parents[1]


def run(*options, **variables):
    """The exit code of the command, and what it prints."""
    done = subprocess.run(
        [sys.executable, *options, "-m", "keras_wake.doctor"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, lines(done.stdout)


def lines(text):
    """The lines of a report, by their names."""
    pairs = [line.partition(":")[::2] for line in text.splitlines()]
    return {name: value.strip() for name, value in pairs}


@pytest.fixture
def report(capsys):
    """Makes the report in this process, which has to end well."""

    def report():
        assert doctor.main() == 0
        return lines(capsys.readouterr().out)

    return report


def test_command():
    code, found = run()
    assert code == 0
    assert found["keras-wake"] == kw.__version__
    assert found["backend"] == found["KERAS_BACKEND"] == BACKEND
    assert f"keras {keras.__version__}" in found["packages"]
    assert found["devices"].startswith("only the CPU")
    assert found["precision"] == "float32, floatx float32"
    assert len(found) == 11


def test_command_without_keras():
    # -S leaves out what is installed.
    code, found = run("-S")
    assert code == 1
    assert "keras missing, tensorflow missing" in found["packages"]
    assert "No module named 'keras'. Install keras-wake" in found["fault"]


def test_command_with_a_backend_that_cannot_be_imported(tmp_path):
    broken = tmp_path / BACKEND / "__init__.py"
    broken.parent.mkdir()
    broken.write_text("raise RuntimeError('libcuda.so is too old.')")
    code, found = run(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert code == 1
    assert "RuntimeError: libcuda.so is too old. Set K" in found["fault"]
    assert "devices" not in found


def test_command_with_a_backend_that_is_none_of_the_three():
    code, found = run(KERAS_BACKEND="numpy")
    assert code == 1
    assert "keras-wake runs on Keras's TensorFlow, JAX and" in found["fault"]


def test_packages_that_are_missing(monkeypatch, report):
    find = doctor.importlib.util.find_spec
    others = {"tensorflow", "jax", "jaxlib", "torch"} - {BACKEND}
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name in others else find(name, *rest),
    )
    packages = report()["packages"].split(", ")
    missing = {text.split()[0] for text in packages if "missing" in text}
    assert missing == others


def test_a_package_may_come_from_a_build_of_another_name(monkeypatch):
    def version(name):
        if name == "keras":
            raise doctor.importlib.metadata.PackageNotFoundError
        return "3.16.0.dev1"

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr(
        "importlib.metadata.packages_distributions",
        lambda: {"keras": ["keras-nightly"]},
    )
    assert doctor._version("keras") == "3.16.0.dev1 (keras-nightly)"


def test_jit_is_what_compile_chooses(monkeypatch, report):
    chosen = report()['jit_compile="auto"']
    model = wake()
    assert chosen.startswith("XLA for the whole step") == model.jit_compile
    if BACKEND == "tensorflow":
        assert chosen.startswith("no XLA: on a CPU")
        module = backend.tensorflow
        for place in (module, backend):
            monkeypatch.setattr(place, "jit_by_default", lambda: True)
        assert wake().jit_compile
        chosen = report()['jit_compile="auto"']
        assert chosen.startswith("XLA for the whole step; with several")


def test_what_cannot_be_found_is_said(monkeypatch, report):
    def fail():
        raise RuntimeError("no d\u00e9vice")

    monkeypatch.setattr(backend, "accelerators", fail)
    assert report()["devices"] == (
        "not known, because of RuntimeError: no d\\xe9vice"
    )


def test_devices(monkeypatch, report):
    monkeypatch.setattr(backend, "accelerators", lambda: ["A", "B"])
    assert report()["devices"] == "A, B"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flags : fpu avx512_bf16\n", "; AVX512_BF16: use mixed_bfloat16"),
        ("flags : amx_tile amx_bf16 avx512_bf16", "AVX512_BF16 and AMX: "),
        ("flags : fpu avx512f", "neither AVX512_BF16 nor AMX"),
        ("Features : bf16", " cores"),
        (None, " cores"),
    ],
)
def test_bfloat16(tmp_path, monkeypatch, text, words):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(f"model name : A CPU\n{text}")
    name, flags = doctor._cpu_info(path)
    assert name == ("" if text is None else "A CPU")
    monkeypatch.setattr(doctor, "_cpu_info", lambda: (name, flags))
    # What is not known is not said.
    assert words in doctor._cpu()
    assert ("bfloat16" in doctor._cpu()) == (flags is not None)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's variables")
def test_threads(monkeypatch, report):
    monkeypatch.setattr(doctor, "_cores", lambda: 8)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "8")
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "2")
    said = report()["CPU threads"]
    assert "TF_ENABLE_ONEDNN_OPTS=1 (now not set)" in said
    assert "TF_NUM_INTRAOP_THREADS=4 (now 8)" in said
    assert "INTEROP" not in said
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "4")
    assert report()["CPU threads"] == "as the README advises"


def test_the_package_does_not_import_it():
    tree = ast.parse(pathlib.Path(kw.__file__).read_text(encoding="utf-8"))
    imported = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert "WakeModel" in imported and "doctor" not in imported
