"""What calls do to the process that they share with the next ones, and what a call finds."""

import builtins
import contextvars
import decimal
import gc
import locale
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import warnings

os.environ["SET_WHILE_LOADED"] = "kept"
variable = contextvars.ContextVar("variable", default="unset")


def finds(context, args):
    status = open("/proc/self/status").read()
    return {
        "folder": os.getcwd(),
        "umask": [line for line in status.splitlines() if line.startswith("Umask")],
        "environment": dict(os.environ),
        "zone": time.localtime(0).tm_hour,
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1)],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "limits": [resource.getrlimit(which) for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE)],
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "processors": len(os.sched_getaffinity(0)),
        "recursion": sys.getrecursionlimit(),
        "digits": sys.get_int_max_str_digits(),
        "interval": sys.getswitchinterval(),
        "path": sys.path,
        "finders": len(sys.meta_path),
        "arguments": sys.argv,
        "modules": sys.modules["subprocess"] is subprocess and sys.modules.get("this_is_the_call") is None,
        "filters": len(warnings.filters),
        "hooks": [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__, sys.gettrace() is None],
        "built in": [len is builtins.len, builtins.len("four"), builtins.open is builtins.open],
        "collector": [gc.isenabled(), gc.get_threshold()],
        "traced": tracemalloc.is_tracing(),
        "socket": socket.getdefaulttimeout(),
        "precision": decimal.getcontext().prec,
        "variable": variable.get(),
        "threads": threading.active_count(),
        "child": _child(),
        "random": isinstance(os.urandom(1), bytes),
    }


def _child():
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _limit(which, value):
    resource.setrlimit(which, (value, resource.getrlimit(which)[1]))


def _environment():
    os.environ["LEFT"] = "behind"
    del os.environ["SET_WHILE_LOADED"]


def _zone():
    os.environ["TZ"] = "XYZ-5"
    time.tzset()


def _other_environment():
    os.environ = {"only": "this"}


def _thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def _patch(module, name):
    setattr(module, name, lambda *args, **more: "patched")


def _no_modules():
    sys.modules = {}


MESSES = {
    "folder": lambda: os.chdir("/tmp"),
    "removed folder": lambda: (os.mkdir("/tmp/gone"), os.chdir("/tmp/gone"), os.rmdir("/tmp/gone")),
    "umask": lambda: os.umask(0o777),
    "environment": _environment,
    "other environment": _other_environment,
    "zone": _zone,
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C" if locale.setlocale(locale.LC_ALL) != "C" else "C.UTF-8"),
    "signal handler": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "signal mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1]),
    "alarm": lambda: signal.alarm(1),
    "timer": lambda: (signal.signal(signal.SIGALRM, print), signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)),
    "soft limit of files": lambda: _limit(resource.RLIMIT_NOFILE, 20),
    "hard limit": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    "priority": lambda: os.nice(5),
    "processors": lambda: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]),
    "recursion": lambda: sys.setrecursionlimit(80),
    "digits": lambda: sys.set_int_max_str_digits(0),
    "interval": lambda: sys.setswitchinterval(1.5),
    "path": lambda: sys.path.clear(),
    "other path": lambda: setattr(sys, "path", ["/tmp"]),
    "finders": lambda: sys.meta_path.clear(),
    "arguments": lambda: sys.argv.append("--left"),
    "module": lambda: sys.modules.update(subprocess=types.ModuleType("subprocess"), json=None),
    "no modules": _no_modules,
    "filters": lambda: warnings.simplefilter("error"),
    "no filters": lambda: warnings.resetwarnings(),
    "hook": lambda: setattr(sys, "excepthook", print),
    "trace": lambda: sys.settrace(lambda *args: None),
    "built in": lambda: _patch(builtins, "len"),
    "collector": lambda: (gc.disable(), gc.set_threshold(1, 1, 1)),
    "traced": lambda: tracemalloc.start(),
    "socket": lambda: socket.setdefaulttimeout(0.001),
    "precision": lambda: setattr(decimal.getcontext(), "prec", 3),
    "variable": lambda: variable.set("left"),
    "thread": _thread,
    "child": lambda: subprocess.Popen(["sleep", "600"]),
    "ended child": lambda: os.fork() or os._exit(0),
    "os.urandom": lambda: _patch(os, "urandom"),
    "os.getcwd": lambda: _patch(os, "getcwd"),
    "os.write": lambda: _patch(os, "write"),
    "json.loads": lambda: _patch(sys.modules["json"], "loads"),
}


def mess(context, name):
    MESSES[name]()
    return "done"


def messes(context, args):
    return sorted(MESSES)
