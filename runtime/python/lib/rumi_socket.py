"""Frames of JSON over a Unix socket: a length, 4 bytes big-endian, then so many bytes of UTF-8 JSON. Both directions.

Behind rumi_syscall and rumi_capability; packs use those.
"""

import json
import os
import socket
import struct
import threading
import time

# What a failure before, or instead of, an answer is called. Any other is called by its exception's class.
_KNOWN = (
    (FileNotFoundError, "socket_not_found"),
    (PermissionError, "permission_denied"),
    (ConnectionRefusedError, "connection_refused"),
    (socket.timeout, "timeout"),
    (json.JSONDecodeError, "json_decode_error"),
)

# How long a socket may be away, in seconds: another replica takes a second to serve what one that died has served.
TAKEOVER = 5.0
_POLL = 0.02
_ATTEMPTS = 3  # at a request that nobody reads


class Broken(Exception):
    """The other side closed the connection or talked nonsense. What was asked for may have happened."""


class _Unread(Broken):
    """The other side closed the connection before it had read all of the request."""


class TooLarge(Exception):
    """The request is over the bound of the other side. Nothing was sent."""


class Misuse(Exception):
    """An argument that can't be sent. Its text says which one, and what to write instead. Nothing was sent."""


def times(timeout_seconds, default, most):
    """The fields of a request that bound its time, and how many seconds all of it may take.

    timeout_seconds is a number, None for the default, or (connect, read) as requests has it: the second bounds each wait
    for the next byte, so that all of it may take as long as the other side lets it, most. A number over most counts as most.
    """
    if timeout_seconds is None:
        timeout_seconds = default
    if isinstance(timeout_seconds, (tuple, list)):
        if len(timeout_seconds) != 2:
            raise Misuse("timeout_seconds must be a number of seconds, or two: (connect, read)")
        connect, read = (most if part is None else min(_seconds(part), most) for part in timeout_seconds)
        return {"connect_timeout_seconds": connect, "read_timeout_seconds": read, "timeout_seconds": most}, most
    total = min(_seconds(timeout_seconds), most)
    return {"timeout_seconds": total}, total


def _seconds(value):
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Misuse("timeout_seconds must be a number of seconds, not %s" % type(value).__name__) from None
    if seconds != seconds:
        raise Misuse("timeout_seconds must be a number of seconds, not NaN")
    return seconds


def json_text(data):
    """data as JSON, or Misuse with the reason."""
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise Misuse("data is nested too deeply for JSON") from None
    except (TypeError, ValueError) as error:
        raise Misuse("data can't be written as JSON: %s" % (error,)) from None


def error_type(error, broken):
    """The error_type of an exception that Caller.call raised; broken is what Broken is called."""
    if isinstance(error, Broken):
        return broken
    if isinstance(error, (TooLarge, Misuse)):
        return "validation_error"
    for kind, name in _KNOWN:
        if isinstance(error, kind):
            return name
    return type(error).__name__


class Caller:
    """Asks one question after another over a connection that each thread keeps for itself."""

    def __init__(self, max_request, max_response):
        """Bounds of a frame's JSON, in bytes."""
        self._max_request = max_request
        self._max_response = max_response
        self._idle = threading.local()

    def call(self, path, request, timeout):
        """The answer, a dict, to request at the socket path within timeout seconds.

        A request that the other side closed the connection on without having read all of it did not happen, and is sent
        once more over a new connection. Nothing else is repeated: who asked decides whether it may happen twice.
        """
        payload = json.dumps(request, ensure_ascii=False, allow_nan=False).encode("utf-8")
        if len(payload) > self._max_request:
            raise TooLarge("Request too large: %d > %d" % (len(payload), self._max_request))
        frame = struct.pack(">I", len(payload)) + payload
        deadline = time.monotonic() + timeout
        conn = self._take_idle(path)
        for left in reversed(range(_ATTEMPTS)):
            try:
                if conn is None:
                    conn = _connect(path, deadline)
                _send(conn, frame, deadline)
                answer = self._receive(conn, deadline)
                break
            except BaseException as error:
                if conn is not None:
                    conn.close()
                    conn = None
                if not left or not isinstance(error, _Unread):
                    raise
        self._put_idle(path, conn)
        return answer

    def _take_idle(self, path):
        """This thread's connection to path if it can be used; it is nobody's then."""
        idle, self._idle.state = getattr(self._idle, "state", None), None
        if idle is None:
            return None
        pid, at, conn = idle
        # After a fork both processes hold one connection: answers would mix. Closing here leaves the parent's as it is.
        if pid != os.getpid() or at != path or _readable(conn):
            conn.close()
            return None
        return conn

    def _put_idle(self, path, conn):
        self._idle.state = (os.getpid(), path, conn)

    def _receive(self, conn, deadline):
        (length,) = struct.unpack(">I", _read(conn, 4, deadline, _Unread))
        if length == 0:
            raise Broken("Empty response")
        if length > self._max_response:
            raise Broken("Response too large: %d > %d" % (length, self._max_response))
        answer = json.loads(_read(conn, length, deadline).decode("utf-8"))
        if not isinstance(answer, dict):
            raise Broken("Response is no object")
        return answer


def _connect(path, deadline):
    """A connection to path; where its folder is there, who listens in it may be about to be replaced by another."""
    give_up = min(deadline, time.monotonic() + TAKEOVER) - _POLL
    while True:
        conn = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _set_timeout(conn, deadline)
            conn.connect(path)
            return conn
        except (FileNotFoundError, ConnectionRefusedError):
            conn.close()
            if time.monotonic() > give_up or not os.path.isdir(os.path.dirname(path)):
                raise
        except BaseException:
            conn.close()
            raise
        time.sleep(_POLL)


def _set_timeout(conn, deadline):
    """Lets the next operation take what is left of the time."""
    left = deadline - time.monotonic()
    if not left > 0:  # also for a NaN
        raise socket.timeout("timed out")
    conn.settimeout(left)


def _readable(conn):
    """Between two requests nothing may come: what does is the end, or an answer that nobody waits for."""
    try:
        conn.setblocking(False)
        conn.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        pass
    return True


def _send(conn, frame, deadline):
    rest = memoryview(frame)
    while rest:
        _set_timeout(conn, deadline)
        try:
            rest = rest[conn.send(rest):]
        except (BrokenPipeError, ConnectionResetError):
            raise _Unread("Connection closed while sending the request") from None


def _read(conn, length, deadline, reset=Broken):
    """length bytes; reset is raised where the connection is reset before the first of them."""
    data = bytearray(length)
    view, have = memoryview(data), 0
    while have < length:
        _set_timeout(conn, deadline)
        try:
            more = conn.recv_into(view[have:])
        except ConnectionResetError:
            # Linux says so of a Unix socket whose other end was closed with something unread, or was never accepted.
            raise (Broken if have else reset)("Connection closed while waiting for the response") from None
        if not more:
            raise Broken("Connection closed while waiting for the response")
        have += more
    return data
