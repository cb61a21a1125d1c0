"""The worker of `rumi-runtime serve`: runs a container's calls, one after the other. PROTOCOL.md has the wire format."""

# All that is used is imported here, before a pack's folder is on sys.path: a json.py of its own is its own affair.
import builtins
import contextvars
import fcntl
import importlib.util
import io
import json
import os
import re
import signal
import struct
import sys
import traceback
import types

import rumi_state

del sys.modules["rumi_state"]  # a pack may have a module of that name

# Code under test shares this process and may replace what it finds in modules. Functions here look names up in copies, so
# that a library which swaps json.loads, or a handler which patches len or os.write, doesn't change what the worker does.
__builtins__ = dict(vars(builtins))
_contextvars, _io, _os, _traceback = map(rumi_state.copy_of, (contextvars, io, os, traceback))
_ASYNC = types.CoroutineType, types.AsyncGeneratorType
_dup, _F_DUPFD_CLOEXEC = fcntl.fcntl, fcntl.F_DUPFD_CLOEXEC
_pack, _unpack = struct.pack, struct.unpack
_spec_from_file_location, _module_from_spec = importlib.util.spec_from_file_location, importlib.util.module_from_spec
_JSONDecodeError = json.JSONDecodeError
_scan = (json.scanner.c_make_scanner or json.scanner.py_make_scanner)(json.JSONDecoder())


def _not_json(value):
    raise TypeError("%s is not JSON" % type(value).__name__)


def _encoder(ascii):
    """What json.dumps(value, ensure_ascii=ascii, allow_nan=False, separators=(",", ":")) does, by functions of the interpreter's."""
    if json.encoder.c_make_encoder is None:  # not CPython
        return json.JSONEncoder(ensure_ascii=ascii, allow_nan=False, separators=(",", ":")).encode
    quote = json.encoder.encode_basestring_ascii if ascii else json.encoder.encode_basestring
    chunks = json.encoder.c_make_encoder(None, _not_json, quote, None, ":", ",", False, False, False)
    return lambda value: "".join(chunks(value, 0))


_dumps, _dumps_ascii = _encoder(False), _encoder(True)

# Another folder only where there is no container (RUMI_SECURITY_MODE=permissive).
ROOT = os.environ.get("RUMI_PACK_DIR", "/pack")
MAX_CALL = 8 * 1024 * 1024
MAX_OUTPUT = 1024 * 1024
EX_DATAERR = 65  # sysexits.h

# The broker's own call: what the container sees where folders are mounted.
STAT = ":stat"

# Code under test may close whatever descriptors it can name; these lie out of the way of small numbers.
_FIRST_PRIVATE = 500

# How the broker's calls begin.
_matches_id = re.compile(rb'\{"id":"([A-Za-z0-9-]{1,128})"').match


class Refused(Exception):
    """Answers a call with a kind and a word of ours. The traceback of what caused it is for the handler's log."""

    def __init__(self, kind, error, cause=None):
        super().__init__(kind, error)
        self.kind = kind
        self.error = error
        self.trace = ""
        if cause is not None:
            try:
                self.trace = "".join(_traceback.format_exception(type(cause), cause, cause.__traceback__)).rstrip("\n")
            except BaseException:  # an exception of the code's own may do anything
                self.trace = "rumi: no traceback of an exception that can't be shown"


class Streams:
    """The descriptors: calls and answers out of the code's way, nothing to read on 0, and 1 with 2 where its noise goes."""

    def __init__(self):
        self.calls = _private(0)
        self.answers = _private(1)
        self._noise = _private(2)
        nothing = _os.open(os.devnull, os.O_RDONLY)
        self._nothing = _private(nothing)
        _os.close(nothing)
        self._formats = [(stream.encoding, stream.errors) for stream in (sys.stdin, sys.stdout, sys.stderr)]
        self._call = self._last = None
        self.renew()

    def renew(self):
        """Undoes what the last call did to 0, 1 and 2, and gives the next one files of its own over them: closing one, or
        collecting a TextIOWrapper around its buffer, closes neither the descriptor nor the next call's."""
        _os.dup2(self._nothing, 0)
        _os.dup2(self._noise, 1)
        _os.dup2(self._noise, 2)
        (encoding, errors), out, err = self._formats
        stdin = _io.TextIOWrapper(_io.BufferedReader(_io.FileIO(0, "r", closefd=False)), encoding, errors)
        stdout = _io.TextIOWrapper(_Noise(1, self, b"stdout"), *out, write_through=True)
        stderr = _io.TextIOWrapper(_Noise(2, self, b"stderr"), *err, write_through=True)
        sys.stdin = sys.__stdin__ = stdin
        sys.stdout = sys.__stdout__ = stdout
        sys.stderr = sys.__stderr__ = stderr

    def begin(self, call_id):
        """Marks in the noise where a call begins, so that its reader can tell whose it is."""
        self._call = call_id
        self._last = b"stdout"
        self._mark(b"begin")

    def end(self):
        """Marks where it ends."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:  # the code may have closed or replaced it
                pass
        self._mark(b"end")
        self._call = None

    def switch(self, stream):
        """Marks that what follows is written to another stream than what came before."""
        if stream is not self._last:
            self._last = stream
            self._mark(stream)

    def log(self, text):
        """Writes a line of the worker's own."""
        self.switch(b"stderr")
        try:
            _os.write(self._noise, text.encode("utf-8", "backslashreplace") + b"\n")
        except OSError:  # the code may have closed it
            pass

    def _mark(self, word):
        if self._call:
            try:
                _os.write(self._noise, b"\x1e%s %s\x1f" % (self._call, word))
            except OSError:
                pass


class _Noise(io.FileIO):
    """One of the standard descriptors, which it doesn't close."""

    def __init__(self, fd, streams, name):
        super().__init__(fd, "w", closefd=False)
        self._streams, self._stream = streams, name

    def write(self, data):
        self._streams.switch(self._stream)
        return super().write(data)


def _private(fd):
    return _dup(fd, _F_DUPFD_CLOEXEC, _FIRST_PRIVATE)


class Worker:
    """Runs one call after the other."""

    def __init__(self, streams):
        self._streams = streams
        self._calls = streams.calls
        self._answers = streams.answers
        self._root = _os.path.realpath(ROOT)
        self._modules = {}  # by path
        self._named = {}  # the module and the function's name, by call
        self._state = rumi_state.State()

    def serve(self):
        """Answers until the calls end. The exit status."""
        while True:
            head = self._read(4)
            if not head:
                return 0
            (length,) = _unpack(">I", head.ljust(4, b"\0"))
            if len(head) < 4 or not 0 < length <= MAX_CALL:
                self._streams.log("rumi: no call has a length of %s" % head.hex())
                return EX_DATAERR
            body = self._read(length)
            if len(body) < length:
                self._streams.log("rumi: the calls ended in the middle of one")
                return EX_DATAERR
            self._answer(body)

    def _read(self, length):
        """length bytes, or fewer at the end of the calls."""
        data = bytearray()
        while len(data) < length:
            more = _os.read(self._calls, length - len(data))
            if not more:
                break
            data += more
        return bytes(data)

    def _answer(self, body):
        call_id = None
        self._streams.renew()
        left = []
        try:
            if begins := _matches_id(body):
                call_id = begins[1].decode()
                self._streams.begin(begins[1])
            call = _parse(body)
            call_id = call["id"]
            try:
                output = _encode(self._run(call))
            finally:
                left = self._state.restore()
            answer = {"id": call_id, "ok": True}
        except Refused as refused:
            if refused.trace:
                self._streams.log(refused.trace)
            output = None
            answer = {"id": call_id, "ok": False, "kind": refused.kind, "error": refused.error}
            if rumi_state.too_many_tasks():
                left.append("too many threads or processes")
        if short := rumi_state.nearly_used_up():
            left.append("little more of " + short)
        if left:
            answer["retire"] = True
            self._streams.log("rumi: the call left %s; the next one gets a new worker" % ", ".join(left))
        self._streams.end()
        answer = _dumps_ascii(answer).encode()
        if output is not None:
            answer = answer[:-1] + b',"output":' + output + b"}"
        rest = memoryview(_pack(">I", len(answer)) + answer)
        while rest:
            rest = rest[_os.write(self._answers, rest):]

    def _run(self, call):
        name, args = call.get("call"), call.get("args")
        if not isinstance(name, str) or "\0" in name or not isinstance(args, list):
            raise Refused("invalid", "call is no string or args is no array")
        if name == STAT:
            return self._stat()
        function = self._function(name)
        self._state.begin()
        try:
            value = _contextvars.copy_context().run(_in_context, function, args)
        except SystemExit as end:
            raise Refused("exit", "SystemExit", end) from end
        except BaseException as error:  # a KeyboardInterrupt of the code's own making, too
            raise Refused("exception", type(error).__name__, error) from error
        if isinstance(value, _ASYNC):
            if isinstance(value, types.CoroutineType):
                value.close()  # or Python complains that it was never awaited
            self._streams.log("rumi: %s is async, and nobody awaits it: write a def that calls asyncio.run" % name)
            raise Refused("coroutine", "the function is async")
        return value

    def _stat(self):
        """Device and inode of each mounted folder, while nobody else's code can have had a say in it."""
        if self._modules:
            raise Refused("invalid", "too late")
        seen = []
        while (folder := _os.environ.get("RUMI_MOUNT_%d" % len(seen))) is not None:
            try:
                found = _os.stat(folder)
            except OSError as error:
                raise Refused("load", type(error).__name__) from error
            seen.append([found.st_dev, found.st_ino])
        return seen

    def _function(self, name):
        if found := self._named.get(name):
            module, attribute = found
        else:
            module, attribute = self._find(name)
        function = getattr(module, attribute, None)
        if not callable(function):
            raise Refused("load", "no such function")
        return function

    def _find(self, name):
        file, separator, attribute = name.rpartition(":")
        if not separator or not attribute.isidentifier():
            raise Refused("invalid", "call is not file.py:function")
        path = _os.path.realpath(_os.path.join(self._root, file))
        if _os.path.isabs(file) or ".." in file.split("/") or not path.startswith(self._root + "/"):
            raise Refused("invalid", "file is not in the pack")
        if not file.endswith(".py") or not _os.path.isfile(path):
            raise Refused("load", "no such file")
        self._named[name] = found = self._load(path), attribute
        return found

    def _load(self, path):
        if path in self._modules:
            return self._modules[path]
        folder = _os.path.dirname(path)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        # Called by its own name, as `python file.py` would not but `import file` would: pickles and dataclasses want it
        # in sys.modules. A second file of that name gets another.
        name = _os.path.basename(path)[:-3]
        if name in sys.modules:
            name = "%s_%d" % (name, len(self._modules))
        try:
            spec = _spec_from_file_location(name, path)
            module = _module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        except BaseException as error:
            sys.modules.pop(name, None)
            raise Refused("load", type(error).__name__, error) from error
        self._modules[path] = module
        self._state.save()
        return module


def _in_context(function, args):
    """Runs a call in a context of its own, so that what it sets in context variables ends with it. The one of decimal is an
    object that is changed in place."""
    decimal = sys.modules.get("decimal")
    if decimal is not None:
        decimal.setcontext(decimal.getcontext().copy())
    return function(*args)


def _parse(body):
    """The call, an object with an id; what has none can't be answered to anybody in particular."""
    try:
        text = body.decode("utf-8").strip(" \t\n\r")
        call, end = _scan(text, 0)
        if end < len(text):
            raise Refused("invalid", "call is no JSON")
    except (ValueError, RecursionError, StopIteration) as error:
        if _matches_id(body) and not isinstance(error, (UnicodeDecodeError, _JSONDecodeError, StopIteration)):
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
        output = _dumps(value).encode("utf-8")
    except BaseException as error:  # a subclass of dict may do anything
        raise Refused("value", type(error).__name__, error) from error
    if len(output) > MAX_OUTPUT:
        raise Refused("too_large", "output is over %d bytes" % MAX_OUTPUT)
    return output


def _unique(value):
    """Finds objects in which the encoder would write one name twice ({1: …, "1": …}), which is no JSON for the reader."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            if len({key if isinstance(key, str) else _dumps(key) for key in value}) != len(value):
                raise ValueError("two keys have one name")
        for inner in value.values():
            _unique(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _unique(inner)


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
        streams.log(_traceback.format_exc())
    finally:
        # Not sys.exit: a thread that a call left behind would keep the process.
        _os._exit(status)


if __name__ == "__main__":
    main()
