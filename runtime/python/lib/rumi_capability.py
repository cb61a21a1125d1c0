"""Capability calls for packs, through the capability broker: a pack may call the permissions that it was granted.

    import rumi_capability

    result = rumi_capability.call("fs.read", {"path": "notes.txt"})
    if result["success"]:
        print(result["output"])
    else:
        print(result["error_type"], result["error"])

    key = rumi_capability.get_secret("MY_API_KEY")  # None if the pack may not read it or there is none
"""

import os
import sys

import rumi_socket

DEFAULT_SOCKET_PATH = "/run/rumi/capability/rumi.sock"
SOCKET_PATH = os.environ.get("RUMI_CAPABILITY_SOCKET") or DEFAULT_SOCKET_PATH

MAX_REQUEST_SIZE = 4 * 1024 * 1024
MAX_RESPONSE_SIZE = 4 * 1024 * 1024
DEFAULT_TIMEOUT = 30.0  # seconds
MAX_TIMEOUT = 120.0

__all__ = ["call", "get_secret"]

# The broker ends a call at its time-out; these seconds more are for its answer to arrive.
_GRACE = 5.0

_caller = rumi_socket.Caller(MAX_REQUEST_SIZE, MAX_RESPONSE_SIZE)


def call(permission_id, args=None, timeout_seconds=DEFAULT_TIMEOUT, socket_path=None, request_id=None):
    """Call a permission. Return a dict of success, output, error, error_type and latency_ms.

    It raises nothing: a failure is an answer with success False and an error_type.
    """
    path = socket_path or SOCKET_PATH
    try:
        bounds, timeout = rumi_socket.times(timeout_seconds, DEFAULT_TIMEOUT, MAX_TIMEOUT)
        if "read_timeout_seconds" in bounds:
            raise rumi_socket.Misuse("timeout_seconds must be a number of seconds: it bounds all of the call")
        asked = {"permission_id": permission_id, "args": args or {}, "timeout_seconds": timeout}
        if request_id:
            asked["request_id"] = request_id
        asked.update(rumi_socket.trace())
        return _caller.call(path, asked, timeout + _GRACE)
    except Exception as error:
        kind = rumi_socket.error_type(error, "capability_error")
        if kind == "socket_not_found":
            text = "Capability proxy socket not found: %s" % (path,)
        elif kind == "permission_denied":
            text = "Permission denied to capability proxy socket: %s" % (path,)
        elif kind == "connection_refused":
            text = "Connection refused to capability proxy: %s" % (path,)
        elif kind == "timeout":
            text = "Request timed out after %ss (%g at most)" % (timeout_seconds, MAX_TIMEOUT)
        else:
            text = str(error)
        return {"success": False, "output": None, "error": text, "error_type": kind, "latency_ms": 0}


_warned = False


def get_secret(key):
    """Return the value of a secret, a string. None if the pack may not read it or there is none; both look the same."""
    result = call("secrets.get", {"key": key})
    if result.get("error_type") == "socket_not_found":
        _warn_once("rumi: no capability socket at %s: is this running as a pack? get_secret gives None" % (SOCKET_PATH,))
    output = result.get("output")
    if not result.get("success") or not isinstance(output, dict) or not output.get("success"):
        return None
    value = output.get("value")
    return value if isinstance(value, str) else None


def _warn_once(text):
    """Print, once, why no secret can be read: None alone looks like a secret that isn't set."""
    global _warned
    if not _warned:
        _warned = True
        print(text, file=sys.stderr)
