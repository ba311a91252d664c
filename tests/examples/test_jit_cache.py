"""The examples keep what JAX has compiled, for the next process."""

import os
import pathlib

import pytest
from small import output_of

pytest.importorskip("jax")
EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
# Everything is kept, also what compiles within a second.
COMPILE = """
import runner
import jax

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8))))
"""


def run(tmp_path, **variables):
    """The files of the user's cache after a script of the examples."""
    env = {**os.environ, "PYTHONPATH": str(EXAMPLES), **variables}
    env |= {"KERAS_BACKEND": "jax", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert output_of("-c", COMPILE, env=env, cwd=tmp_path) == "512.0\n"
    files = (tmp_path / "cache").rglob("*-cache")
    return {file.relative_to(tmp_path): file.stat().st_mtime for file in files}


def test_a_second_process_compiles_nothing(tmp_path):
    first = run(tmp_path)
    assert first
    assert {file.parts[:3] for file in first} == {
        ("cache", "keras-wake", "jax")
    }
    assert run(tmp_path) == first


def test_it_can_be_switched_off(tmp_path):
    assert run(tmp_path, JAX_ENABLE_COMPILATION_CACHE="0") == {}


def test_a_folder_of_the_user_stays(tmp_path):
    own = tmp_path / "own"
    assert run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(own)) == {}
    assert list(own.iterdir())
