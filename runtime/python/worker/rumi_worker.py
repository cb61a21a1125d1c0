"""The worker of `rumi-runtime serve`: runs a container's calls, one after the other. PROTOCOL.md has the wire format."""

# All that is used is imported here, before a pack's folder is on sys.path: a json.py of its own is its own affair.
import fcntl
import importlib.util
import json
import os
import re
import resource
import signal
import struct
import sys
import traceback

# Another folder only where there is no container (RUMI_SECURITY_MODE=permissive).
ROOT = os.environ.get("RUMI_PACK_DIR", "/pack")
MAX_CALL = 8 * 1024 * 1024
MAX_OUTPUT = 1024 * 1024
EX_DATAERR = 65  # sysexits.h

# The broker's own call: what the container sees where folders are mounted.
STAT = ":stat"

# From here on a worker asks to be replaced: peak memory in bytes and tasks (0 for never), a descriptor's number.
RETIRE_BYTES = int(os.environ.get("RUMI_RETIRE_BYTES") or 0)
RETIRE_TASKS = int(os.environ.get("RUMI_RETIRE_TASKS") or 0)
RETIRE_DESCRIPTOR = 256

# Code under test may close whatever descriptors it can name; these lie out of the way of small numbers.
_FIRST_PRIVATE = 500

# How the broker's calls begin.
_ID = re.compile(rb'\{"id":"([A-Za-z0-9-]{1,128})"')


class Refused(Exception):
    """Answers a call with a kind and a word of ours."""

    def __init__(self, kind, error):
        super().__init__(kind, error)
        self.kind = kind
        self.error = error


class Streams:
    """The descriptors: calls and answers out of the code's way, nothing to read on 0, and 1 with 2 where its noise goes."""

    def __init__(self):
        self.calls = _private(0)
        self.answers = _private(1)
        self._noise = _private(2)
        nothing = os.open(os.devnull, os.O_RDONLY)
        self._nothing = _private(nothing)
        os.close(nothing)
        self._files = sys.stdin, sys.stdout, sys.stderr
        self.restore()

    def restore(self):
        """Undoes what the last call did to 0, 1 and 2."""
        os.dup2(self._nothing, 0)
        os.dup2(self._noise, 1)
        os.dup2(self._noise, 2)
        sys.stdin, sys.stdout, sys.stderr = self._files


def _private(fd):
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_PRIVATE)


class Worker:
    """Runs one call after the other."""

    def __init__(self, streams):
        self._streams = streams
        self._calls = streams.calls
        self._answers = streams.answers
        self._root = os.path.realpath(ROOT)
        self._modules = {}

    def serve(self):
        """Answers until the calls end. The exit status."""
        while True:
            head = self._read(4)
            if not head:
                return 0
            (length,) = struct.unpack(">I", head.ljust(4, b"\0"))
            if len(head) < 4 or not 0 < length <= MAX_CALL:
                _say("rumi: no call has a length of %s" % head.hex())
                return EX_DATAERR
            body = self._read(length)
            if len(body) < length:
                _say("rumi: the calls ended in the middle of one")
                return EX_DATAERR
            self._answer(body)

    def _read(self, length):
        """length bytes, or fewer at the end of the calls."""
        data = bytearray()
        while len(data) < length:
            more = os.read(self._calls, length - len(data))
            if not more:
                break
            data += more
        return bytes(data)

    def _answer(self, body):
        call_id = None
        self._streams.restore()
        try:
            if begins := _ID.match(body):
                call_id = begins[1].decode()
            call = _parse(body)
            call_id = call["id"]
            output = _encode(self._run(call))
            retire = b',"retire":true' if _worn() else b""
            answer = b'{"id":%s,"ok":true%s,"output":%s}' % (json.dumps(call_id).encode(), retire, output)
        except Refused as refused:
            answer = {"id": call_id, "ok": False, "kind": refused.kind, "error": refused.error}
            if _worn() or _crowded():
                answer["retire"] = True
            answer = json.dumps(answer).encode()
        _flush()
        rest = memoryview(struct.pack(">I", len(answer)) + answer)
        while rest:
            rest = rest[os.write(self._answers, rest):]

    def _run(self, call):
        name, args = call.get("call"), call.get("args")
        if not isinstance(name, str) or "\0" in name or not isinstance(args, list):
            raise Refused("invalid", "call is no string or args is no array")
        if name == STAT:
            return self._stat()
        function = self._function(name)
        try:
            return function(*args)
        except SystemExit as end:
            raise Refused("exit", "SystemExit") from end
        except BaseException as error:  # a KeyboardInterrupt of the code's own making, too
            _say(traceback.format_exc())
            raise Refused("exception", type(error).__name__) from error

    def _stat(self):
        """Device and inode of each mounted folder, while nobody else's code can have had a say in it."""
        if self._modules:
            raise Refused("invalid", "too late")
        seen = []
        while (place := os.environ.get("RUMI_MOUNT_%d" % len(seen))) is not None:
            try:
                found = os.stat(place)
            except OSError as error:
                raise Refused("load", type(error).__name__) from error
            seen.append([found.st_dev, found.st_ino])
        return seen

    def _function(self, name):
        file, separator, attribute = name.rpartition(":")
        if not separator or not attribute.isidentifier():
            raise Refused("invalid", "call is not file.py:function")
        path = os.path.realpath(os.path.join(self._root, file))
        if os.path.isabs(file) or ".." in file.split("/") or not path.startswith(self._root + "/"):
            raise Refused("invalid", "file is not in the pack")
        if not file.endswith(".py") or not os.path.isfile(path):
            raise Refused("load", "no such file")
        function = getattr(self._load(path), attribute, None)
        if not callable(function):
            raise Refused("load", "no such function")
        return function

    def _load(self, path):
        if path in self._modules:
            return self._modules[path]
        folder = os.path.dirname(path)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        # Called by its own name, as `python file.py` would not but `import file` would: pickles and dataclasses want it
        # in sys.modules. A second file of that name gets another.
        name = os.path.basename(path)[:-3]
        if name in sys.modules:
            name = "%s_%d" % (name, len(self._modules))
        try:
            spec = importlib.util.spec_from_file_location(name, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        except BaseException as error:
            sys.modules.pop(name, None)
            _say(traceback.format_exc())
            raise Refused("load", type(error).__name__) from error
        self._modules[path] = module
        return module


def _parse(body):
    """The call, an object with an id; what has none can't be answered to anybody in particular."""
    try:
        call = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if _ID.match(body) and not isinstance(error, (UnicodeDecodeError, json.JSONDecodeError)):
            raise Refused("args", "Python can't read them") from error
        raise Refused("invalid", "call is no JSON") from error
    if not isinstance(call, dict):
        raise Refused("invalid", "call is no object")
    call_id = call.get("id")
    if not isinstance(call_id, str) or not 0 < len(call_id) <= 128:
        raise Refused("invalid", "id is no string of 1 to 128 characters")
    return call


def _encode(value):
    """The JSON of what a function returned."""
    try:
        _unique(value)
        output = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except BaseException as error:  # a subclass of dict may do anything
        _say(traceback.format_exc())
        raise Refused("value", type(error).__name__) from error
    if len(output) > MAX_OUTPUT:
        raise Refused("too_large", "output is over %d bytes" % MAX_OUTPUT)
    return output


def _unique(value):
    """Finds objects in which json.dumps would write one name twice ({1: …, "1": …}), which is no JSON for the reader."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            if len({key if isinstance(key, str) else json.dumps(key) for key in value}) != len(value):
                raise ValueError("two keys have one name")
        for inner in value.values():
            _unique(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _unique(inner)


def _worn():
    """Whether the code has left more behind than the next calls may have to do with. Asked after each call: it is cheap."""
    if 0 < RETIRE_BYTES < resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024:
        return True
    try:
        lowest = os.dup(0)  # the first number that is free
    except OSError:
        return True
    os.close(lowest)
    return lowest >= RETIRE_DESCRIPTOR


def _crowded():
    """Whether threads or processes that the code left behind may be why a call failed."""
    try:
        tasks = len(os.listdir("/proc/self/task"))
        if os.getppid() == 1:  # in a container, whose processes are all its own
            tasks += sum(name.isdigit() for name in os.listdir("/proc"))
    except OSError:
        return True
    return 0 < RETIRE_TASKS < tasks


def _say(text):
    """To stderr, if the code left one."""
    try:
        os.write(2, text.encode("utf-8", "backslashreplace") + b"\n")
    except OSError:
        pass


def _flush():
    """Lets what the code printed go before its answer. It may have closed or replaced these."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass


def main():
    # The folder of this file was put first on sys.path; nobody else needs what is in it.
    sys.path.pop(0)
    streams = Streams()
    # Not an exception in the middle of whatever runs: PID 1 passes the signal on to end this process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.chdir(ROOT)
    status = 70  # EX_SOFTWARE, where serve itself fails
    try:
        status = Worker(streams).serve()
    except BrokenPipeError:
        status = 0  # who asked is gone
    except BaseException:
        _say(traceback.format_exc())
    finally:
        _flush()
        # Not sys.exit: a thread that a call left behind would keep the process.
        os._exit(status)


if __name__ == "__main__":
    main()
