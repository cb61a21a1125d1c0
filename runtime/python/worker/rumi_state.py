"""What a call can change in the worker's process beside its own modules, and how that is undone before the next call.

Three kinds: settings, which are put back; what can't be put back (threads, processes, functions of other modules that were
replaced, a limit that was lowered for good), for which the worker asks to be replaced; and room (memory, descriptors, /tmp,
/dev/shm), for which it does so while there is some left.

The handler's own globals, modules that it imported and its files in /tmp stay: they are what a warm worker is for.
"""

import _locale
import _signal
import _thread
import _tracemalloc
import builtins
import gc
import os
import resource
import sys
import time
import types
import warnings


def copy_of(module):
    """A copy of a module's functions: code under test may replace what is in the module itself."""
    return types.SimpleNamespace(**vars(module))


# Functions look names up here. The modules below are copies, so that replacing json.loads or len breaks the code that did
# it and not the worker.
__builtins__ = dict(vars(builtins))
_gc, _os, _resource, _sys, _time, _warnings = copy_of(gc), copy_of(os), copy_of(resource), copy_of(sys), copy_of(time), copy_of(warnings)
_locale, _signal = copy_of(_locale), copy_of(_signal)
_environ, _modules = os.environ, sys.modules

_SIGNALS = tuple(sorted(_signal.valid_signals() if hasattr(_signal, "valid_signals") else range(1, _signal.NSIG)))
_LIMITS = tuple(sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}))
_TIMERS = (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)

# The worker asks to be replaced from here on: peak memory in bytes and tasks (0 for never), a descriptor's number.
_RETIRE_BYTES = int(os.environ.get("RUMI_RETIRE_BYTES") or 0)
_RETIRE_TASKS = int(os.environ.get("RUMI_RETIRE_TASKS") or 0)
_RETIRE_DESCRIPTOR = 256

# Where all of these folders and of the processes in /proc are the container's own. Without one (RUMI_SECURITY_MODE=permissive)
# they are the host's.
_CONTAINED = os.getppid() == 1
_SCRATCH = ("/tmp", "/dev/shm")


def _umask():
    mask = _os.umask(0o077)
    _os.umask(mask)
    return mask


def _put_environ(saved):
    zone = _environ._data.get(b"TZ") != saved.get(b"TZ")
    for name in [name for name in _environ._data if name not in saved]:
        del _environ[_os.fsdecode(name)]
    for name, value in saved.items():
        if _environ._data.get(name) != value:
            _environ[_os.fsdecode(name)] = _os.fsdecode(value)
    if zone:
        _time.tzset()


def _signals():
    return tuple(map(_signal.getsignal, _SIGNALS))


def _put_signals(saved):
    for number, handler in zip(_SIGNALS, saved):
        if _signal.getsignal(number) != handler:
            _signal.signal(number, handler)


def _limits():
    return tuple(map(_resource.getrlimit, _LIMITS))


def _put_limits(saved):
    for which, limit in zip(_LIMITS, saved):
        if _resource.getrlimit(which) != limit:
            _resource.setrlimit(which, limit)


def _timers():
    return tuple(_signal.getitimer(which)[0] > 0 for which in _TIMERS)


def _put_timers(saved):
    for which, runs in zip(_TIMERS, saved):
        if not runs:
            _signal.setitimer(which, 0)


def _collector():
    return _gc.isenabled(), _gc.get_threshold(), _gc.get_debug()


def _put_collector(saved):
    enabled, threshold, debug = saved
    (_gc.enable if enabled else _gc.disable)()
    _gc.set_threshold(*threshold)
    _gc.set_debug(debug)


def _hooks():
    return _sys.gettrace(), _sys.getprofile(), _sys.get_asyncgen_hooks(), _sys.get_coroutine_origin_tracking_depth()


def _put_hooks(saved):
    trace, profile, generators, depth = saved
    _sys.settrace(trace)
    _sys.setprofile(profile)
    _sys.set_asyncgen_hooks(*generators)
    _sys.set_coroutine_origin_tracking_depth(depth)


def _wait_for_connections():
    module = _modules.get("_socket")
    return module.getdefaulttimeout() if module else None


def _put_wait_for_connections(saved):
    module = _modules.get("_socket")
    if module:
        module.setdefaulttimeout(saved)


def _put_tracing(saved):
    (_tracemalloc.start if saved else _tracemalloc.stop)()


class _Attributes:
    """Attributes of a module, such as sys.excepthook."""

    def __init__(self, module, *names):
        self._space, self._names = vars(module), names

    def get(self):
        return tuple(id(self._space.get(name)) for name in self._names), tuple(self._space.get(name) for name in self._names)

    def put(self, saved):
        for name, value in zip(self._names, saved[1]):
            self._space[name] = value


class _List:
    """A list that a module keeps, such as sys.path: the same object with the same items."""

    def __init__(self, module, name, after=lambda: None):
        self._space, self._name, self._after = vars(module), name, after

    def get(self):
        found = self._space.get(self._name)
        return id(found), tuple(found), found

    def put(self, saved):
        _, items, found = saved
        self._space[self._name] = found
        found[:] = items
        self._after()


class _Names:
    """A dictionary of the interpreter's, of which the saved names are put back and others may come: sys.modules, builtins."""

    def __init__(self, space):
        self._space = space

    def get(self):
        return _Saved(self._space)

    def put(self, saved):
        self._space.update(saved)


class _Saved(dict):
    """What was in a dictionary. It differs from a later one in which a name is gone or is another object's."""

    def __ne__(self, later):
        return not self.items() <= later.items()


# Each is a name, a function that tells what is set, and one that sets it again. What they return is compared.
_SETTINGS = [
    ("working folder", _os.getcwd, _os.chdir),
    ("umask", _umask, _os.umask),
    ("environment", lambda: dict(_environ._data), _put_environ),
    ("locale", lambda: _locale.setlocale(_locale.LC_ALL), lambda saved: _locale.setlocale(_locale.LC_ALL, saved)),
    ("signal handlers", _signals, _put_signals),
    ("signal mask", lambda: _signal.pthread_sigmask(_signal.SIG_BLOCK, ()), lambda saved: _signal.pthread_sigmask(_signal.SIG_SETMASK, saved)),
    ("timers", _timers, _put_timers),
    ("limits", _limits, _put_limits),
    ("priority", lambda: _os.getpriority(_os.PRIO_PROCESS, 0), lambda saved: _os.setpriority(_os.PRIO_PROCESS, 0, saved)),
    ("processors", lambda: _os.sched_getaffinity(0), lambda saved: _os.sched_setaffinity(0, saved)),
    ("scheduler", lambda: _os.sched_getscheduler(0), lambda saved: _os.sched_setscheduler(0, saved, _os.sched_param(0))),
    ("recursion limit", _sys.getrecursionlimit, _sys.setrecursionlimit),
    ("switch interval", _sys.getswitchinterval, _sys.setswitchinterval),
    ("tracing hooks", _hooks, _put_hooks),
    ("garbage collector", _collector, _put_collector),
    ("memory tracing", _tracemalloc.is_tracing, _put_tracing),
    ("time-out of sockets", _wait_for_connections, _put_wait_for_connections),
]
if hasattr(sys, "get_int_max_str_digits"):
    _SETTINGS.append(("digits of integers", sys.get_int_max_str_digits, sys.set_int_max_str_digits))
for _each in (
    _Attributes(os, "environ"), _Attributes(sys, "modules", "excepthook", "displayhook", "unraisablehook", "breakpointhook", "dont_write_bytecode"),
    _Attributes(warnings, "showwarning", "formatwarning", "_showwarning_orig"),
    _List(sys, "path"), _List(sys, "meta_path"), _List(sys, "path_hooks"), _List(sys, "argv"),
    _List(warnings, "filters", getattr(warnings, "_filters_mutated", lambda: None)),
    _Names(_modules), _Names(vars(builtins)),
):
    _SETTINGS.append((type(_each).__name__.lstrip("_").lower(), _each.get, _each.put))


# Modules whose functions may not be other ones for the next call: those that all code stands on. What the handler imports beside
# these is its own to change.
_WATCHED = (
    "codecs", "importlib", "io", "json", "json.decoder", "json.encoder", "linecache", "os", "posixpath", "re", "signal", "struct", "sys",
    "time", "traceback", "types", "warnings",
)


class State:
    """What a call finds. keep is to be called when the code is loaded, begin before a call and restore after it."""

    def __init__(self):
        self.save()

    def save(self):
        """Takes what is set now for what each call is to find: what a file sets while it is loaded is there for its calls."""
        self._settings = [(name, get, put, get()) for name, get, put in _SETTINGS]
        self._save_modules()
        self.begin()

    def begin(self):
        """Notes what runs before a call."""
        self._threads, self._children = _thread._count(), _children()

    def restore(self):
        """Puts back what the call has set. The names of what it left that can't be undone; empty where all is as it was."""
        left = []
        for name, get, put, saved in self._settings:
            try:
                if saved != get():
                    put(saved)
            except BaseException:  # the code may have left an object of its own there
                try:
                    put(saved)
                except BaseException:
                    left.append(name)
        if _thread._count() > self._threads and _threads_left():
            left.append("threads")
        if _children() > self._children:
            left.append("processes")
        if replaced := self._replaced():
            left.append("another function in place of " + replaced)
        return left

    def _save_modules(self):
        self._known = len(_modules)
        spaces = [(name, getattr(_modules.get(name), "__dict__", None)) for name in _WATCHED]
        self._spaces = [(name, space, dict(space)) for name, space in spaces if type(space) is dict]

    def _replaced(self):
        """A function of the interpreter's modules, such as json.loads, in whose place is another one now; "" for none. One that a
        module has put there which the call imported is part of loading that."""
        if len(_modules) != self._known:
            self._save_modules()
            return ""
        for i, (name, space, saved) in enumerate(self._spaces):
            try:
                if space == saved:
                    continue
            except BaseException:  # objects may compare as they like
                pass
            for attribute, value in saved.items():
                if callable(value) and space.get(attribute) is not value:
                    return "%s.%s" % (name, attribute)
            self._spaces[i] = name, space, dict(space)  # a value that is computed once it is needed
        return ""


def _children():
    """1 where this process has children, which may have ended already, else 0."""
    try:
        _os.waitid(_os.P_ALL, 0, _os.WEXITED | _os.WNOHANG | _os.WNOWAIT)
    except ChildProcessError:
        return 0
    except OSError:
        pass
    return 1


def _threads_left():
    """Whether threads are left that are no idle ones of a concurrent.futures pool."""
    threading = _modules.get("threading")
    if threading is None:
        return True
    for thread in list(getattr(threading, "_active", {}).values()):
        target = getattr(thread, "_target", None)
        if thread is getattr(threading, "_main_thread", None) or getattr(target, "__module__", "") == "concurrent.futures.thread":
            continue
        return True
    return False


def nearly_used_up():
    """Of what the worker has so little left that the next calls may not do with it; "" for nothing."""
    if 0 < _RETIRE_BYTES < _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss * 1024:
        return "memory"
    try:
        lowest = _os.dup(0)  # the first number that is free
    except OSError:
        return "descriptors"
    _os.close(lowest)
    if lowest >= _RETIRE_DESCRIPTOR:
        return "descriptors"
    for folder in _SCRATCH if _CONTAINED else ():
        try:
            found = _os.statvfs(folder)
        except OSError:
            continue
        for size, free in (found.f_blocks, found.f_bfree), (found.f_files, found.f_ffree):
            if size and (size - free) * 4 >= size * 3:
                return folder
    return ""


def too_many_tasks():
    """Whether threads or processes that the code left behind may be why a call failed."""
    try:
        tasks = len(_os.listdir("/proc/self/task"))
        if _CONTAINED:  # its processes are all the container's own
            tasks += sum(name.isdigit() for name in _os.listdir("/proc"))
    except OSError:
        return True
    return 0 < _RETIRE_TASKS < tasks
