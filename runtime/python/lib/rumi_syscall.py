"""HTTP for packs, through the egress proxy: the only way out of a container that has no network.

    import rumi_syscall

    result = rumi_syscall.get("https://api.example.com/v1/things", headers={"Accept": "application/json"})
    if result["success"]:
        print(result["status_code"], result["body"])
    else:
        print(result["error_type"], result["error"])

Every function returns a dict and raises nothing: success, status_code, headers, body, error, error_type, latency_ms,
redirect_hops, bytes_read, final_url. An answer of any status is a success. A body that is no text is base64, and the
header X-Proxy-Body-Encoding says so.
"""

import json
import os

import rumi_socket

DEFAULT_SOCKET_PATH = "/run/rumi/egress/rumi.sock"
SOCKET_PATH = os.environ.get("RUMI_EGRESS_SOCKET") or DEFAULT_SOCKET_PATH

MAX_REQUEST_SIZE = 1024 * 1024
MAX_RESPONSE_SIZE = 4 * 1024 * 1024
DEFAULT_TIMEOUT = 30.0  # seconds
MAX_TIMEOUT = 120.0

__all__ = ["http_request", "request", "get", "post", "post_json", "put", "delete", "patch", "head"]

# The proxy keeps the time of a request; this is for its answer to arrive.
_GRACE = 5.0

_caller = rumi_socket.Caller(MAX_REQUEST_SIZE, MAX_RESPONSE_SIZE)


def _failure(error, kind):
    return {
        "success": False,
        "status_code": None,
        "headers": None,
        "body": None,
        "error": error,
        "error_type": kind,
        "latency_ms": 0,
        "redirect_hops": 0,
        "bytes_read": 0,
        "final_url": None,
    }


def http_request(method, url, headers=None, body=None, timeout_seconds=DEFAULT_TIMEOUT, socket_path=None):
    """One request: GET, HEAD, POST, PUT, DELETE or PATCH; body is text; timeout_seconds (120 at most) bounds all of it."""
    path = socket_path or SOCKET_PATH
    try:
        timeout = min(float(timeout_seconds), MAX_TIMEOUT)
        asked = {
            "method": method.upper(),
            "url": url,
            "headers": headers or {},
            "body": body,
            "timeout_seconds": timeout,
        }
        return _caller.call(path, asked, timeout + _GRACE)
    except Exception as error:
        kind = rumi_socket.error_type(error, "syscall_error")
        text = {
            "socket_not_found": "Egress proxy socket not found: %s" % path,
            "permission_denied": "Permission denied to egress proxy socket: %s" % path,
            "connection_refused": "Connection refused to egress proxy: %s" % path,
            "timeout": "Request timed out after %ss" % timeout_seconds,
        }.get(kind)
        return _failure(text or str(error), kind)


request = http_request


def get(url, headers=None, timeout_seconds=DEFAULT_TIMEOUT):
    """A GET request."""
    return http_request("GET", url, headers=headers, timeout_seconds=timeout_seconds)


def head(url, headers=None, timeout_seconds=DEFAULT_TIMEOUT):
    """A HEAD request."""
    return http_request("HEAD", url, headers=headers, timeout_seconds=timeout_seconds)


def delete(url, headers=None, timeout_seconds=DEFAULT_TIMEOUT):
    """A DELETE request."""
    return http_request("DELETE", url, headers=headers, timeout_seconds=timeout_seconds)


def post(url, body=None, headers=None, timeout_seconds=DEFAULT_TIMEOUT):
    """A POST request with a text as its body."""
    return http_request("POST", url, headers=headers, body=body, timeout_seconds=timeout_seconds)


def put(url, body=None, headers=None, timeout_seconds=DEFAULT_TIMEOUT):
    """A PUT request with a text as its body."""
    return http_request("PUT", url, headers=headers, body=body, timeout_seconds=timeout_seconds)


def patch(url, body=None, headers=None, timeout_seconds=DEFAULT_TIMEOUT):
    """A PATCH request with a text as its body."""
    return http_request("PATCH", url, headers=headers, body=body, timeout_seconds=timeout_seconds)


def post_json(url, data, headers=None, timeout_seconds=DEFAULT_TIMEOUT):
    """A POST request with data as JSON."""
    try:
        # One Content-Type only: a header in two spellings is refused.
        named = {name: value for name, value in (headers or {}).items() if str(name).lower() != "content-type"}
        named["Content-Type"] = "application/json"
        body = json.dumps(data, ensure_ascii=False)
    except Exception as error:
        return _failure(str(error), type(error).__name__)
    return post(url, body=body, headers=named, timeout_seconds=timeout_seconds)
