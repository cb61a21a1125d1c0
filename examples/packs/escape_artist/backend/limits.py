"""More than its share of the machine. Each attempt is bounded by itself, should nothing else bound it."""

import mmap
import os
import signal
import time

MANY_PROCESSES = 256
MUCH_MEMORY = 1 << 30
MUCH_TMP = 128 << 20
MANY_FILES = 100_000
MANY_DESCRIPTORS = 4096


def fork_bomb():
    children = []
    try:
        while len(children) < MANY_PROCESSES:
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                time.sleep(60)
                os._exit(0)
            children.append(pid)
        return "%d processes" % len(children)
    except OSError as error:
        raise OSError(error.errno, "%s after %d processes" % (os.strerror(error.errno), len(children))) from None
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)


def memory_bomb():
    """In a child that the kernel is told to take first."""
    pid = os.fork()
    if pid == 0:
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
                score.write("1000")
            block = mmap.mmap(-1, MUCH_MEMORY)
            for offset in range(0, MUCH_MEMORY, mmap.PAGESIZE):
                block[offset] = 1
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return "used %d bytes" % MUCH_MEMORY
    raise MemoryError("ended with %s" % (os.WTERMSIG(status) if os.WIFSIGNALED(status) else status))


def fill(folder):
    path, written, block = os.path.join(folder, "full"), 0, b"x" * (1 << 20)
    try:
        with open(path, "wb", buffering=0) as file:
            while written < MUCH_TMP:
                written += file.write(block)
        return "wrote %d bytes to %s" % (written, folder)
    finally:
        if os.path.exists(path):
            os.unlink(path)


def many_files():
    made = 0
    try:
        while made < MANY_FILES:
            os.close(os.open("/tmp/file-%d" % made, os.O_CREAT | os.O_WRONLY, 0o600))
            made += 1
        return "%d files" % made
    finally:
        for n in range(made):
            os.unlink("/tmp/file-%d" % n)


def descriptors():
    held = []
    try:
        while len(held) < MANY_DESCRIPTORS:
            held.append(os.open("/dev/null", os.O_RDONLY))
        return "%d open files" % len(held)
    finally:
        for fd in held:
            os.close(fd)


def processors():
    """Processor time of four children in half a second."""
    before = os.times()
    end = time.monotonic() + 0.5
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            while time.monotonic() < end:
                pass
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    if spent > 0.8:  # one processor gives 0.5, and what its period lets over
        return "%.2f seconds of processor time in 0.5" % spent
    raise TimeoutError("%.2f seconds of processor time in 0.5" % spent)


def attempts():
    yield "fill_tmp", lambda: fill("/tmp")
    yield "fill_shm", lambda: fill("/dev/shm")
    yield "many_files", many_files
    yield "many_descriptors", descriptors
    yield "processors", processors
    yield "fork_bomb", fork_bomb
    yield "memory_bomb", memory_bomb
