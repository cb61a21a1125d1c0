"""The worker of `rumi-runtime serve`: it runs a container's calls, one after the other.

PROTOCOL.md has the wire format. The called code is hostile, and it runs in this very process: nothing here keeps it from
forging the answer to its own call. What is kept is that one call can't change what the next one gets, as far as Python
allows; where it doesn't, the answer asks the broker for a new worker. The container is the boundary, not this file.
"""

# Everything is imported here, before a pack's folder is on sys.path: a json.py of the pack must not become ours.
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

del sys.modules["rumi_state"]  # a pack may have a module with that name

# The called code shares this process and may replace functions of modules. The worker uses copies, so that a library that swaps
# json.loads, or a handler that patches len or os.write, doesn't change what the worker does.
__builtins__ = dict(vars(builtins))
_contextvars, _io, _os, _traceback = map(rumi_state.copy_of, (contextvars, io, os, traceback))
_ASYNC = types.CoroutineType, types.AsyncGeneratorType
_environ = os.environ
_dup, _F_DUPFD_CLOEXEC = fcntl.fcntl, fcntl.F_DUPFD_CLOEXEC
_pack, _unpack = struct.pack, struct.unpack
_spec_from_file_location, _module_from_spec = importlib.util.spec_from_file_location, importlib.util.module_from_spec
_JSONDecodeError = json.JSONDecodeError
_scan = (json.scanner.c_make_scanner or json.scanner.py_make_scanner)(json.JSONDecoder())


def _not_json(value):
    raise TypeError("%s is not JSON" % type(value).__name__)


def _encoder(ascii):
    """Return json.dumps(…, ensure_ascii=ascii, allow_nan=False, separators=(",", ":")), made of functions written in C.

    The Python functions of module json look names up in it at each call, so the called code could replace them.
    """
    if json.encoder.c_make_encoder is None:  # not CPython
        return json.JSONEncoder(ensure_ascii=ascii, allow_nan=False, separators=(",", ":")).encode
    quote = json.encoder.encode_basestring_ascii if ascii else json.encoder.encode_basestring
    chunks = json.encoder.c_make_encoder(None, _not_json, quote, None, ":", ",", False, False, False)
    return lambda value: "".join(chunks(value, 0))


_dumps, _dumps_ascii = _encoder(False), _encoder(True)

# The folder of the pack. It is another one only without a container (RUMI_SECURITY_MODE=permissive).
ROOT = os.environ.get("RUMI_PACK_DIR", "/pack")
MAX_CALL = 8 * 1024 * 1024
MAX_OUTPUT = 1024 * 1024
EX_DATAERR = 65  # sysexits.h

# The broker's own call: which folders the container has at its mount points.
STAT = ":stat"

# The worker's descriptors get numbers from here on. Code that closes "all" descriptors often counts from 3 to some small number.
_FIRST_PRIVATE = 500

# The beginning of the broker's calls. The id is read from it even if the rest is no JSON, so that there is one to answer.
_matches_id = re.compile(rb'\{"id":"([A-Za-z0-9-]{1,128})"').match


class Refused(Exception):
    """A call that is answered with a kind and an error text of ours. The traceback of its cause goes to the log only."""

    def __init__(self, kind, error, cause=None):
        super().__init__(kind, error)
        self.kind = kind
        self.error = error
        self.trace = ""
        if cause is not None:
            try:
                self.trace = "".join(_traceback.format_exception(type(cause), cause, cause.__traceback__)).rstrip("\n")
            except BaseException:  # formatting runs methods of the exception, which the called code may have written
                self.trace = "rumi: no traceback of an exception that can't be shown"


class Streams:
    """The worker's descriptors.

    Calls and answers are moved to high numbers, out of reach of code that reads stdin or prints. Descriptor 0 is /dev/null;
    1 and 2 both go to the container's stderr, since its stdout carries the answers.
    """

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
        """Undo what the last call did to descriptors 0, 1 and 2, and make new sys.stdin, sys.stdout and sys.stderr.

        The new objects don't own their descriptor: closing one, or collecting a TextIOWrapper around its buffer, closes
        nothing of the next call's.
        """
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
        """Mark the beginning of a call in the noise, so that its reader can tell which call printed what follows."""
        self._call = call_id
        self._last = b"stdout"
        self._mark(b"begin")

    def end(self):
        """Mark the end of the call."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:  # the code may have closed or replaced it
                pass
        self._mark(b"end")
        self._call = None

    def switch(self, stream):
        """Mark that what follows is written to another stream than what came before."""
        if stream is not self._last:
            self._last = stream
            self._mark(stream)

    def log(self, text):
        """Write a line of the worker itself to stderr."""
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
    """A raw file over a standard descriptor, which it doesn't close. Each write is marked with the stream's name."""

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
        """Answer calls until there are no more. Return the exit status."""
        while True:
            head = self._read(4)
            if not head:
                return 0
            (length,) = _unpack(">I", head.ljust(4, b"\0"))
            if len(head) < 4 or not 0 < length <= MAX_CALL:
                self._streams.log("rumi: the worker ends: a call has the length %s (hexadecimal), want 1 to %d bytes" % (head.hex(), MAX_CALL))
                return EX_DATAERR
            body = self._read(length)
            if len(body) < length:
                self._streams.log("rumi: the worker ends: stdin ended in the middle of a call")
                return EX_DATAERR
            self._answer(body)

    def _read(self, length):
        """Return length bytes, or fewer if the calls end before."""
        data = bytearray()
        while len(data) < length:
            more = _os.read(self._calls, length - len(data))
            if not more:
                break
            data += more
        return bytes(data)

    def _answer(self, body):
        """Run one call and write its answer."""
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
            left.append("little " + short)
        if left:
            answer["retire"] = True
            self._streams.log("rumi: a new worker takes the next call, since this one left: " + ", ".join(left))
        self._streams.end()
        answer = _dumps_ascii(answer).encode()
        if output is not None:
            answer = answer[:-1] + b',"output":' + output + b"}"
        rest = memoryview(_pack(">I", len(answer)) + answer)
        while rest:
            rest = rest[_os.write(self._answers, rest):]

    def _run(self, call):
        """Run the function that the call names, and return what it returned. Everything that it raises becomes a Refused."""
        name, args = call.get("call"), call.get("args")
        if not isinstance(name, str) or "\0" in name or not isinstance(args, list):
            raise Refused("invalid", "call is no string or args is no array")
        if name == STAT:
            return self._stat()
        function = self._function(name)
        self._state.begin()
        try:
            _set_trace(args)
        except BaseException:  # an earlier call may have replaced the methods of os.environ: the trace isn't worth a worker
            pass
        try:
            value = _contextvars.copy_context().run(_in_context, function, args)
        except SystemExit as end:
            raise Refused("exit", "SystemExit", end) from end
        except BaseException as error:  # also a KeyboardInterrupt that the code raises itself
            raise Refused("exception", type(error).__name__, error) from error
        if isinstance(value, _ASYNC):
            if isinstance(value, types.CoroutineType):
                value.close()  # without it, Python warns that the coroutine was never awaited
            self._streams.log("rumi: %s is async, and nobody awaits it: write a def that calls asyncio.run" % name)
            raise Refused("coroutine", "the function is async")
        return value

    def _stat(self):
        """Return device and inode of each mounted folder.

        The broker checks by them that Docker mounted the folder that was allowed, and not one that took its path meanwhile.
        Once a file of the pack has been loaded, its code could have patched os.stat, so the call is refused then.
        """
        if self._modules:
            raise Refused("invalid", "a file of the pack is loaded already")
        seen = []
        while (folder := _os.environ.get("RUMI_MOUNT_%d" % len(seen))) is not None:
            try:
                found = _os.stat(folder)
            except OSError as error:
                raise Refused("load", type(error).__name__) from error
            seen.append([found.st_dev, found.st_ino])
        return seen

    def _function(self, name):
        """Return the function that file.py:function names. The attribute is looked up at each call, as Python would."""
        if found := self._named.get(name):
            module, attribute = found
        else:
            module, attribute = self._find(name)
        function = getattr(module, attribute, None)
        if not callable(function):
            raise Refused("load", "no such function")
        return function

    def _find(self, name):
        """Return the module and the attribute's name. Loads the file at its first call."""
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
        """Load a file as a module, once. Its folder comes first on sys.path."""
        if path in self._modules:
            return self._modules[path]
        folder = _os.path.dirname(path)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        # The module has the file's name and is in sys.modules, as after `import file`: pickle and dataclasses need that. A
        # second file with the same name gets another one.
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


def _set_trace(args):
    """Put the trace of the call, which its context has, where OpenTelemetry's specification wants it: into the environment.

    So our clients find it, in any thread of the call, and the programs that the call starts. The environment is put back after
    the call like everything else of the process.
    """
    context = args[0] if args and isinstance(args[0], dict) else {}
    for field, variable in (("traceparent", "TRACEPARENT"), ("tracestate", "TRACESTATE")):
        value = context.get(field)
        if isinstance(value, str) and value and "\0" not in value:
            _environ[variable] = value
        else:
            _environ.pop(variable, None)


def _in_context(function, args):
    """Run a call in a context of its own, so that context variables which it sets end with it.

    The context of decimal is an object that is changed in place, so the call gets a copy of it.
    """
    decimal = sys.modules.get("decimal")
    if decimal is not None:
        decimal.setcontext(decimal.getcontext().copy())
    return function(*args)


def _parse(body):
    """Return the call, an object with an id. Without an id the answer's id would be null, so the call is refused."""
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
    """Return what a function returned, as JSON."""
    try:
        _unique(value)
        output = _dumps(value).encode("utf-8")
    except BaseException as error:  # encoding runs methods of the value, such as those of a subclass of dict
        raise Refused("value", type(error).__name__, error) from error
    if len(output) > MAX_OUTPUT:
        raise Refused("too_large", "output is over %d bytes" % MAX_OUTPUT)
    return output


def _unique(value):
    """Raise ValueError if the encoder would write one name twice in an object, as for {1: …, "1": …}.

    Readers of such JSON differ in which value they take; the broker refuses it.
    """
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
    """Serve calls, then end the process."""
    # Python put the folder of this file first on sys.path. A pack must not import from it.
    sys.path.pop(0)
    streams = Streams()
    # PID 1 forwards SIGINT to end this process. The default handler of Python would raise an exception in the called code instead.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.chdir(ROOT)
    status = 70  # EX_SOFTWARE, where serve itself fails
    try:
        status = Worker(streams).serve()
    except BrokenPipeError:
        status = 0  # the broker is gone
    except BaseException:
        streams.log(_traceback.format_exc())
    finally:
        # Not sys.exit: it waits for threads, and a call may have left one that never ends.
        _os._exit(status)


if __name__ == "__main__":
    main()
