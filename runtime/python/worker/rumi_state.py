"""What a call can change in the worker's process outside its own modules, and how that is undone before the next call.

There are three kinds. Settings are put back. Other changes can't be undone: threads, processes, replaced functions of
other modules, a hard limit that was lowered. After these the worker asks to be replaced. And resources can be used up:
memory, descriptors, /tmp, /dev/shm. The worker asks to be replaced while some are left, so that no call fails first.

The handler's own globals, the modules that it imported and its files in /tmp stay. They are what a warm worker is for.
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
    """Return a copy of a module's functions: the called code may replace those in the module itself."""
    return types.SimpleNamespace(**vars(module))


# The names below are copies, so that code which replaces os.getcwd or len breaks itself and not the worker.
__builtins__ = dict(vars(builtins))
_gc, _os, _resource, _sys, _time, _warnings = copy_of(gc), copy_of(os), copy_of(resource), copy_of(sys), copy_of(time), copy_of(warnings)
_locale, _signal = copy_of(_locale), copy_of(_signal)
_environ, _modules = os.environ, sys.modules

_SIGNALS = tuple(sorted(_signal.valid_signals() if hasattr(_signal, "valid_signals") else range(1, _signal.NSIG)))
_LIMITS = tuple(sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}))
_TIMERS = (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)

# From these values on the worker asks to be replaced: peak memory in bytes, threads and processes (0 for never), and the number of
# a new descriptor.
_RETIRE_BYTES = int(os.environ.get("RUMI_RETIRE_BYTES") or 0)
_RETIRE_TASKS = int(os.environ.get("RUMI_RETIRE_TASKS") or 0)
_RETIRE_DESCRIPTOR = 256

# In a container, /proc, /tmp and /dev/shm are the container's own. Without one (RUMI_SECURITY_MODE=permissive) they are the host's, and
# what others use of them says nothing about this worker.
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
    """Attributes of a module, such as sys.excepthook. They are compared by identity, not by an __eq__ of the called code."""

    def __init__(self, module, *names):
        self._space, self._names = vars(module), names

    def get(self):
        return tuple(id(self._space.get(name)) for name in self._names), tuple(self._space.get(name) for name in self._names)

    def put(self, saved):
        for name, value in zip(self._names, saved[1]):
            self._space[name] = value


class _List:
    """A list in a module, such as sys.path. Put back are the object and its items."""

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
    """A dictionary such as sys.modules or builtins. Saved names are put back; new ones may stay."""

    def __init__(self, space):
        self._space = space

    def get(self):
        return _Saved(self._space)

    def put(self, saved):
        self._space.update(saved)


class _Saved(dict):
    """A saved dictionary. It differs from a later one if a name is missing there or names another object."""

    def __ne__(self, later):
        return not self.items() <= later.items()


# Each setting is a name, a function that gets it and one that puts it back. It is put back if a later get differs.
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


# Modules whose functions must be the same at the next call, since nearly all code uses them. The handler may change other modules that
# it imports.
_WATCHED = (
    "codecs", "importlib", "io", "json", "json.decoder", "json.encoder", "linecache", "os", "posixpath", "re", "signal", "struct", "sys",
    "time", "traceback", "types", "warnings",
)


class State:
    """What each call finds. Call save when code was loaded, begin before a call and restore after it."""

    def __init__(self):
        self.save()

    def save(self):
        """Save the settings as they are now, for each later call. What a file sets while it is loaded is there for its calls."""
        self._settings = [(name, get, put, get()) for name, get, put in _SETTINGS]
        self._save_modules()
        self.begin()

    def begin(self):
        """Note the threads and processes before a call."""
        self._threads, self._children = _thread._count(), _children()

    def restore(self):
        """Put back what the call has set. Return names of what can't be undone; empty if all is as it was."""
        left = []
        for name, get, put, saved in self._settings:
            try:
                if saved != get():
                    put(saved)
            except BaseException:  # comparing may run a method of an object that the code left there
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
        """Return the name of a function of _WATCHED that was replaced, such as json.loads; "" for none.

        If the call imported modules, the functions as they are now are saved instead: some libraries patch others when they
        are imported, and would do so in a new worker, too.
        """
        if len(_modules) != self._known:
            self._save_modules()
            return ""
        for i, (name, space, saved) in enumerate(self._spaces):
            try:
                if space == saved:
                    continue
            except BaseException:  # comparing may run a method of the called code
                pass
            for attribute, value in saved.items():
                if callable(value) and space.get(attribute) is not value:
                    return "%s.%s" % (name, attribute)
            self._spaces[i] = name, space, dict(space)  # no function: a value that the module computes when it is first needed
        return ""


def _children():
    """Return 1 if this process has children, running or ended, else 0. No child is waited for."""
    try:
        _os.waitid(_os.P_ALL, 0, _os.WEXITED | _os.WNOHANG | _os.WNOWAIT)
    except ChildProcessError:
        return 0
    except OSError:
        pass
    return 1


def _threads_left():
    """Return whether there are threads other than those of concurrent.futures pools, which wait for work and do nothing."""
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
    """Return the resource of which so little is left that a next call may fail; "" for none."""
    if 0 < _RETIRE_BYTES < _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss * 1024:
        return "memory"
    try:
        lowest = _os.dup(0)  # dup gives the lowest free number: about as many descriptors are open
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
    """Return whether there are so many threads and processes that a call may have failed because of them."""
    try:
        tasks = len(_os.listdir("/proc/self/task"))
        if _CONTAINED:  # all processes in /proc are the container's
            tasks += sum(name.isdigit() for name in _os.listdir("/proc"))
    except OSError:
        return True
    return 0 < _RETIRE_TASKS < tasks
