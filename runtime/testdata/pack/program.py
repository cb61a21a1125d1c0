"""An entrypoint: says what it sees, then waits for SIGTERM."""

import os
import signal
import sys
import time


def reads(path):
    try:
        with open(path, "rb") as file:
            return "read %d bytes" % len(file.read(100))
    except OSError as error:
        return type(error).__name__


def others():
    """Processes beside PID 1 and this one, zombies among them."""
    return sum(1 for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid()))


def leave_orphans(count):
    """Children of a child that ends first: they are PID 1's."""
    for _ in range(count):
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(0.05)
            os._exit(0)
        os.wait()


def stop(*_):
    print("stopping")
    sys.exit(5)


signal.signal(signal.SIGTERM, stop)
print("argv", sys.argv[1:])
print("folder", os.getcwd())
print("pid 1 environ", reads("/proc/1/environ"))
print("pid 1 mem", reads("/proc/1/mem"))
leave_orphans(20)
deadline = time.monotonic() + 20
while others() and time.monotonic() < deadline:
    time.sleep(0.02)
print("orphans left", others())
sys.stdout.write("ready\n")
while True:
    signal.pause()
