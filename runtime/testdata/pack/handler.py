"""What handlers do, and what they should not."""

import io
import json
import os
import subprocess
import sys
import tempfile
import threading

calls = 0


def echo(*args):
    return args


def trace(context, args):
    child = subprocess.run(["sh", "-c", 'echo "$TRACEPARENT $TRACESTATE"'], capture_output=True, text=True, check=True)
    return child.stdout.split()


def count(context, args):
    global calls
    calls += 1
    return calls


def prints(context, args):
    print("printed")
    os.write(1, b"written to 1\n")
    sys.__stdout__.write("original stdout\n")
    subprocess.run(["echo", "by a child"], check=True)
    os.write(1, b"\0\0\0\x0d" + b'{"ok": true}\n')
    return "quiet"


def prints_without_end(context, args):
    sys.stderr.write("no newline")
    return "quiet"


def raises(context, args):
    raise ValueError("the secret is 12345")


def interrupts(context, args):
    raise KeyboardInterrupt


class Bad(dict):
    def values(self):
        raise RuntimeError("no")


def exits(context, args):
    sys.exit(args)


def returns(context, args):
    cycle = []
    cycle.append(cycle)
    deep = []
    for _ in range(100_000):
        deep = [deep]
    return {
        "nan": float("nan"),
        "infinity": [float("inf")],
        "set": {1},
        "bytes": b"x",
        "function": returns,
        "surrogate": "\ud800",
        "surrogate key": {"\ud800": 1},
        "cycle": cycle,
        "deep": deep,
        "same name": {1: "a", "1": "b"},
        "tuple key": {(1, 2): 3},
        "bad dict": Bad(a=1),
        "number key": {1: {None: (True,)}},
        "text": "é\u2028\0\"",
        "big number": 10**30,
        "none": None,
    }[args]


def sized(context, args):
    return "x" * (args - 2)  # and two quotation marks


def length(context, args):
    return len(args)


def closes_standard(context, args):
    for fd in (0, 1, 2):
        os.close(fd)
    return "closed"


def breaks_streams(context, args):
    sys.stdin = sys.stdout = sys.stderr = None
    return "gone"


def closes_all(context, args):
    os.closerange(0, 1024)
    return "never seen"


def dies(context, args):
    os._exit(3)


def forks_and_both_return(context, args):
    child = os.fork()
    return child == 0


def forks_and_ends(context, args):
    if os.fork() == 0:
        os._exit(0)
    return "parent"


def leaves_a_thread(context, args):
    threading.Thread(target=threading.Event().wait).start()
    return "left"


def imports(context, args):
    found = {}
    for name in args:
        try:
            module = __import__(name)
            found[name] = getattr(module, "__file__", None) or "built in"
        except ImportError as error:
            found[name] = type(error).__name__
    return found


def descriptors(context, args):
    return sys.stdin.read(), os.read(0, 10).decode()


not_callable = 3


async def asynchronous(context, args):
    return "never seen"


def wraps_stdout(context, args):
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
    print("through a wrapper")
    return "wrapped"


def prints_line(context, args):
    print("line of", args)
    print("error of", args, file=sys.stderr)
    return "printed"


def swaps_json(context, args):
    json.loads = json.dumps = json.JSONDecoder.decode = json.JSONEncoder.encode = None
    return "swapped"


def fills(context, args):
    """Leaves so many files of so many bytes in a folder."""
    folder, files, size = args
    for _ in range(files):
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(b"x" * size)
    return "filled"
