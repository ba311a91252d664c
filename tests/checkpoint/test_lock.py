"""One process at a time holds a lock, and a kill frees it."""

import os
import subprocess
import sys

import pytest

from keras_wake.checkpoint import lock
from keras_wake.checkpoint.lock import FileLock

HOLDER = """
import pathlib, shutil, sys, time
from lock import FileLock
path = pathlib.Path(sys.argv[1])
lock = FileLock(path)
free = lock.acquire()
# The process opens and closes the file another time.
shutil.copy(path, path.with_name("copy"))
print(free, flush=True)
time.sleep(100)
"""


def test_lock_of_another_process_is_freed_by_its_kill(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdout=subprocess.PIPE,
        # Without the package, which imports a backend.
        cwd=os.path.dirname(lock.__file__),
    )
    try:
        assert holder.stdout.readline().strip() == b"True"
        own = FileLock(path)
        assert not own.acquire()
    finally:
        holder.kill()
        holder.wait()
    assert own.acquire()
    assert not FileLock(path).acquire()
    own.release()
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_lock_of_a_killed_process_is_not_held_by_its_child(tmp_path):
    path = tmp_path / "lock"
    end, hold = os.pipe()
    ready, tell = os.pipe()
    holder = os.fork()
    if not holder:
        FileLock(path).acquire()
        if os.fork():
            os.read(ready, 1)
            os._exit(0)
        os.close(hold)
        os.write(tell, b"1")
        os.read(end, 1)  # Until the test is over.
        os._exit(0)
    try:
        os.waitpid(holder, 0)
        own = FileLock(path)
        assert own.acquire()
        own.release()
    finally:
        for descriptor in (end, hold, ready, tell):
            os.close(descriptor)
