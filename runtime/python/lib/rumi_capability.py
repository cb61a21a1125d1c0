"""Capabilities for packs, through the capability broker: what a pack may have done for it, if it was granted.

    import rumi_capability

    result = rumi_capability.call("fs.read", {"path": "notes.txt"})
    if result["success"]:
        print(result["output"])
    else:
        print(result["error_type"], result["error"])

    key = rumi_capability.get_secret("MY_API_KEY")  # None where it may not be read or isn't there
"""

import os

import rumi_socket

DEFAULT_SOCKET_PATH = "/run/rumi/capability/rumi.sock"
SOCKET_PATH = os.environ.get("RUMI_CAPABILITY_SOCKET") or DEFAULT_SOCKET_PATH

MAX_REQUEST_SIZE = 4 * 1024 * 1024
MAX_RESPONSE_SIZE = 4 * 1024 * 1024
DEFAULT_TIMEOUT = 30.0  # seconds
MAX_TIMEOUT = 120.0

__all__ = ["call", "get_secret"]

# The broker keeps the time of a call; this is for its answer to arrive.
_GRACE = 5.0

_caller = rumi_socket.Caller(MAX_REQUEST_SIZE, MAX_RESPONSE_SIZE)


def call(permission_id, args=None, timeout_seconds=DEFAULT_TIMEOUT, socket_path=None, request_id=None):
    """Calls what permission_id stands for: a dict of success, output, error, error_type, latency_ms. Raises nothing."""
    path = socket_path or SOCKET_PATH
    try:
        timeout = min(float(timeout_seconds), MAX_TIMEOUT)
        asked = {"permission_id": permission_id, "args": args or {}, "timeout_seconds": timeout}
        if request_id:
            asked["request_id"] = request_id
        return _caller.call(path, asked, timeout + _GRACE)
    except Exception as error:
        kind = rumi_socket.error_type(error, "capability_error")
        text = {
            "socket_not_found": "Capability proxy socket not found: %s" % path,
            "permission_denied": "Permission denied to capability proxy socket: %s" % path,
            "connection_refused": "Connection refused to capability proxy: %s" % path,
            "timeout": "Request timed out after %ss" % timeout_seconds,
        }.get(kind)
        return {"success": False, "output": None, "error": text or str(error), "error_type": kind, "latency_ms": 0}


def get_secret(key):
    """The value of a secret, a string; None where it may not be read or isn't there, which look the same."""
    result = call("secrets.get", {"key": key})
    output = result.get("output")
    if not result.get("success") or not isinstance(output, dict) or not output.get("success"):
        return None
    value = output.get("value")
    return value if isinstance(value, str) else None
