"""Frames of JSON over a Unix socket: a length of 4 bytes, big-endian, then so many bytes of UTF-8 JSON. Both directions.

Packs use rumi_syscall and rumi_capability, which are built on this module.
"""

import json
import os
import socket
import struct
import threading
import time

# The error_type of failures before, or instead of, an answer. For any other exception it is the name of its class.
_KNOWN = (
    (FileNotFoundError, "socket_not_found"),
    (PermissionError, "permission_denied"),
    (ConnectionRefusedError, "connection_refused"),
    (socket.timeout, "timeout"),
    (json.JSONDecodeError, "json_decode_error"),
)

# How long the socket may be unserved, in seconds. Another replica takes over the socket of a dead one within a second.
TAKEOVER = 5.0
_POLL = 0.02
_ATTEMPTS = 3  # to send a request that the other side closes unread


class Broken(Exception):
    """The other side closed the connection or sent no valid answer. The request may have been carried out."""


class _Unread(Broken):
    """The other side closed the connection before it had read all of the request: it wasn't carried out."""


class TooLarge(Exception):
    """The request is larger than the other side allows. Nothing was sent."""


class Misuse(Exception):
    """An argument that can't be sent. Its text says which one, and what to write instead. Nothing was sent."""


# The trace that this process was started in, and until when (time.monotonic) what it does still counts as a part of that: a pack
# that runs for weeks does most of it for other reasons.
_STARTED = os.environ.get("TRACEPARENT")
_STARTING = time.monotonic() + 300.0


def trace():
    """Return the trace that a request made now belongs to, as the fields traceparent and tracestate; empty for none.

    It stands in the environment. The worker of a handler changes it for each call, and a pack may do so itself. The one that the
    process was started with counts for five minutes.
    """
    parent = os.environ.get("TRACEPARENT")
    if not parent or parent == _STARTED and time.monotonic() > _STARTING:
        return {}
    state = os.environ.get("TRACESTATE")
    return {"traceparent": parent, "tracestate": state} if state else {"traceparent": parent}


def times(timeout_seconds, default, most):
    """Return the fields of a request that bound its time, and how many seconds all of it may take.

    timeout_seconds is a number, None for the default, or (connect, read) as in the library requests. read bounds each wait
    for the next byte, so the whole request may take most seconds. A number over most counts as most.
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
    """Return data as JSON. Raise Misuse with the reason if that can't be done."""
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise Misuse("data is nested too deeply for JSON") from None
    except (TypeError, ValueError) as error:
        raise Misuse("data can't be written as JSON: %s" % (error,)) from None


def error_type(error, broken):
    """Return the error_type of an exception that Caller.call raised. broken is that of Broken."""
    if isinstance(error, Broken):
        return broken
    if isinstance(error, (TooLarge, Misuse)):
        return "validation_error"
    for kind, name in _KNOWN:
        if isinstance(error, kind):
            return name
    return type(error).__name__


class Caller:
    """Sends requests, one after the other. Each thread has a connection of its own, which stays open between them."""

    def __init__(self, max_request, max_response):
        """Set the bounds of a frame's JSON, in bytes."""
        self._max_request = max_request
        self._max_response = max_response
        self._idle = threading.local()

    def call(self, path, request, timeout):
        """Send request to the socket path and return the answer, a dict, within timeout seconds.

        If the other side closes the connection before it has read all of the request, the request wasn't carried out. It is
        sent again over a new connection. Nothing else is repeated: only the caller knows whether it may happen twice.
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
        """Return this thread's idle connection to path, None if there is none that can be used.

        The connection is taken out: a call that fails in the middle must not leave it to the next one.
        """
        idle, self._idle.state = getattr(self._idle, "state", None), None
        if idle is None:
            return None
        pid, at, conn = idle
        # After a fork both processes have the connection, and would read each other's answers. Closing it here doesn't close
        # the parent's.
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
    """Return a connection to path.

    If the socket is unserved or missing but its folder is there, try again for TAKEOVER seconds: another replica may be about
    to serve it. Without the folder, this is no container of a pack, and nobody ever will.
    """
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
    """Let the next operation on conn take what is left of the time."""
    left = deadline - time.monotonic()
    if not left > 0:  # also for a NaN
        raise socket.timeout("timed out")
    conn.settimeout(left)


def _readable(conn):
    """Return whether something came on an idle connection.

    Between two requests nothing may come. It is the end, or the late answer to a request whose time was up, which the next
    request would take for its own.
    """
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
    """Return length bytes. Raise reset if the connection is reset before the first of them."""
    data = bytearray(length)
    view, have = memoryview(data), 0
    while have < length:
        _set_timeout(conn, deadline)
        try:
            more = conn.recv_into(view[have:])
        except ConnectionResetError:
            # Linux resets a Unix socket whose other end was closed with unread bytes, or was never accepted.
            raise (Broken if have else reset)("Connection closed while waiting for the response") from None
        if not more:
            raise Broken("Connection closed while waiting for the response")
        have += more
    return data
