"""HTTP for packs, through the egress proxy: the only way out of a container that has no network.

    import rumi_syscall

    result = rumi_syscall.get("https://api.example.com/v1/things", headers={"Accept": "application/json"})
    if result["success"]:
        print(result["status_code"], result["body"])
    else:
        print(result["error_type"], result["error"])

Every function returns a dict of success, status_code, headers, body, error, error_type, latency_ms, redirect_hops, bytes_read
and final_url, and raises nothing. An answer of any status is a success. A body that isn't text is base64; the header
X-Proxy-Body-Encoding says so.

A request may have 1 MiB, an answer 4 MiB. requests, httpx, urllib and curl have no such bounds; they can send bytes and
stream. They find the same proxy by HTTP_PROXY and HTTPS_PROXY, which are set in a pack's container.
"""

import os
import urllib.parse

import rumi_socket

DEFAULT_SOCKET_PATH = "/run/rumi/egress/rumi.sock"
SOCKET_PATH = os.environ.get("RUMI_EGRESS_SOCKET") or DEFAULT_SOCKET_PATH

MAX_REQUEST_SIZE = 1024 * 1024
MAX_RESPONSE_SIZE = 4 * 1024 * 1024
DEFAULT_TIMEOUT = 30.0  # seconds
MAX_TIMEOUT = 120.0

__all__ = ["http_request", "request", "get", "post", "post_json", "put", "delete", "patch", "head"]

# The proxy ends a request at its time-out; these seconds more are for its answer to arrive.
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


def http_request(method, url, headers=None, body=None, timeout_seconds=DEFAULT_TIMEOUT, socket_path=None, params=None, json=None):
    """Send one request: GET, HEAD, POST, PUT, DELETE or PATCH.

    body is text, or bytes that are UTF-8 text. json is data to send as JSON instead. params is a dict or a list of pairs that
    is added to the URL's query. headers is a dict of texts. timeout_seconds bounds the whole request, 120 at most; (connect,
    read) bounds the connection and each wait for the next byte.
    """
    path = socket_path or SOCKET_PATH
    try:
        bounds, timeout = rumi_socket.times(timeout_seconds, DEFAULT_TIMEOUT, MAX_TIMEOUT)
        headers = _traced(_headers(headers))
        if json is not None:
            body, headers = _json_body(body, json, headers)
        asked = {"method": _text("method", method).upper(), "url": _url(url, params), "headers": headers, "body": _body(body)}
        asked.update(bounds)
        return _caller.call(path, asked, timeout + _GRACE)
    except Exception as error:
        return _explain(error, path, timeout_seconds)


def _explain(error, path, timeout_seconds):
    kind = rumi_socket.error_type(error, "syscall_error")
    if kind == "socket_not_found":
        return _failure("Egress proxy socket not found: %s" % (path,), kind)
    if kind == "permission_denied":
        return _failure("Permission denied to egress proxy socket: %s" % (path,), kind)
    if kind == "connection_refused":
        return _failure("Connection refused to egress proxy: %s" % (path,), kind)
    if kind == "timeout":
        return _failure("Request timed out after %ss (%g at most)" % (timeout_seconds, MAX_TIMEOUT), kind)
    if isinstance(error, rumi_socket.TooLarge):
        return _failure("%s; send larger bodies with requests or urllib, which use HTTP_PROXY" % (error,), kind)
    return _failure(str(error), kind)


def _text(name, value):
    if not isinstance(value, str):
        raise rumi_socket.Misuse("%s must be text, not %s" % (name, type(value).__name__))
    return value


def _url(url, params):
    url = _text("url", url)
    if not params:
        return url
    try:
        query = urllib.parse.urlencode(params, doseq=True)
    except (TypeError, ValueError):
        raise rumi_socket.Misuse("params must be a dict or a list of pairs") from None
    head, mark, fragment = url.partition("#")
    return head + ("&" if "?" in head else "?") + query + mark + fragment


def _headers(headers):
    if headers is None:
        return {}
    if not isinstance(headers, dict):
        raise rumi_socket.Misuse("headers must be a dict of texts, not %s" % type(headers).__name__)
    for name, value in headers.items():
        _text("the name of a header", name)
        _text("header %r" % (name,), value)
    return headers


def _traced(headers):
    """Return headers with the trace of the call that this code runs in, unless they have one."""
    if any(name.lower() == "traceparent" for name in headers):
        return headers
    trace = rumi_socket.trace()
    if not trace:
        return headers
    kept = {name: value for name, value in headers.items() if name.lower() != "tracestate"}
    return {**kept, **trace}


def _body(body):
    if body is None or isinstance(body, str):
        return body
    if isinstance(body, (bytes, bytearray, memoryview)):
        try:
            return bytes(body).decode("utf-8")
        except UnicodeDecodeError:
            raise rumi_socket.Misuse(
                "body must be text; send bytes with requests or urllib, which use HTTP_PROXY"
            ) from None
    raise rumi_socket.Misuse("body must be text, not %s; post_json and json= send data as JSON" % type(body).__name__)


def _json_body(body, data, headers):
    if body is not None:
        raise rumi_socket.Misuse("give body or json, not both")
    # Only one Content-Type: the proxy refuses a header that is there twice, in whatever spelling.
    named = {name: value for name, value in headers.items() if name.lower() != "content-type"}
    named["Content-Type"] = "application/json"
    return rumi_socket.json_text(data), named


request = http_request


def get(url, headers=None, timeout_seconds=DEFAULT_TIMEOUT, params=None):
    """Send a GET request."""
    return http_request("GET", url, headers=headers, timeout_seconds=timeout_seconds, params=params)


def head(url, headers=None, timeout_seconds=DEFAULT_TIMEOUT, params=None):
    """Send a HEAD request."""
    return http_request("HEAD", url, headers=headers, timeout_seconds=timeout_seconds, params=params)


def delete(url, headers=None, timeout_seconds=DEFAULT_TIMEOUT, params=None):
    """Send a DELETE request."""
    return http_request("DELETE", url, headers=headers, timeout_seconds=timeout_seconds, params=params)


def post(url, body=None, headers=None, timeout_seconds=DEFAULT_TIMEOUT, params=None, json=None):
    """Send a POST request with a text as its body, or with json as JSON."""
    return http_request(
        "POST", url, headers=headers, body=body, timeout_seconds=timeout_seconds, params=params, json=json
    )


def put(url, body=None, headers=None, timeout_seconds=DEFAULT_TIMEOUT, params=None, json=None):
    """Send a PUT request with a text as its body, or with json as JSON."""
    return http_request(
        "PUT", url, headers=headers, body=body, timeout_seconds=timeout_seconds, params=params, json=json
    )


def patch(url, body=None, headers=None, timeout_seconds=DEFAULT_TIMEOUT, params=None, json=None):
    """Send a PATCH request with a text as its body, or with json as JSON."""
    return http_request(
        "PATCH", url, headers=headers, body=body, timeout_seconds=timeout_seconds, params=params, json=json
    )


def post_json(url, data, headers=None, timeout_seconds=DEFAULT_TIMEOUT):
    """Send a POST request with data as JSON; None is null."""
    try:
        body, named = _json_body(None, data, _headers(headers))
    except rumi_socket.Misuse as error:
        return _explain(error, SOCKET_PATH, timeout_seconds)
    return post(url, body=body, headers=named, timeout_seconds=timeout_seconds)
