"""One process at a time holds a lock, and a kill frees it."""

import os
import shutil
import subprocess
import sys

import pytest

from keras_wake.checkpoint.lock import FileLock

HOLDER = """
import pathlib, sys, time
from keras_wake.checkpoint.lock import FileLock
lock = FileLock(pathlib.Path(sys.argv[1]))
print(lock.acquire(), flush=True)
time.sleep(100)
"""


def test_lock_of_another_process_is_freed_by_its_kill(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline().strip() == b"True"
        lock = FileLock(path)
        assert not lock.acquire()
    finally:
        holder.kill()
        holder.wait()
    assert lock.acquire()
    assert not FileLock(path).acquire()
    lock.release()
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_lock_is_not_held_by_a_forked_child(tmp_path):
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        # As a data loader that survives: it holds the file open.
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        lock.release(keep_file=True)
        assert lock.acquire()
    finally:
        os.close(write)
        os.waitpid(child, 0)
        os.close(read)
        lock.release()


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
        lock = FileLock(path)
        assert lock.acquire()
        lock.release()
    finally:
        for descriptor in (end, hold, ready, tell):
            os.close(descriptor)


def test_lock_outlives_a_copy_of_the_folder(tmp_path):
    pytest.importorskip("fcntl")
    script = """
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("in use")
"""
    lock = FileLock(tmp_path / "a" / "lock")
    (tmp_path / "a").mkdir()
    assert lock.acquire()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    # In this process the second lock would be refused in any case.
    other = subprocess.run(
        [sys.executable, "-c", script, str(lock.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    lock.release()
    assert other.stdout.strip() == "in use"
