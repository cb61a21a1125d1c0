"""Through its two sockets, by lying to who listens there, and through those of others."""

import json
import os
import socket
import struct

import rumi_capability
import rumi_syscall

EGRESS = rumi_syscall.SOCKET_PATH
CAPABILITY = rumi_capability.SOCKET_PATH

VICTIM = "forecast"
GRANTED_TO_VICTIM = "https://forecast.rumi.test:8443/v1/today"
SECRET_OF_VICTIM = "FORECAST_API_KEY"

# A host in every spelling that something between here and there may read as an address, or as another host.
HOSTS = {
    "metadata": "169.254.169.254", "metadata_name": "metadata.google.internal", "decimal": "2852039166", "hex": "0xa9fea9fe",
    "octal": "0251.0376.0251.0376", "short": "127.1", "zero": "0", "mapped": "[::ffff:169.254.169.254]",
    "nat64": "[64:ff9b::a9fe:a9fe]", "6to4": "[2002:a9fe:a9fe::]", "loopback": "127.0.0.1:8080", "loopback6": "[::1]:8080",
    "private": "10.0.0.1", "link_local": "[fe80::1]", "gateway": "gateway:8080", "secrets": "secrets:8080",
    "approval": "approval:8080", "consul": "consul:8500", "docker_host": "host.docker.internal:2375", "localhost": "localhost:8765",
    "user_info": "forecast.rumi.test@169.254.169.254", "percent": "169%2e254%2e169%2e254", "full_width": "１６９.254.169.254",
    "trailing_dot": "gateway.:8080", "ungranted": "example.com",
}
SCHEMES = {"file": "file:///etc/passwd", "gopher": "gopher://127.0.0.1:6379/_INFO", "unix": "unix:///var/run/docker.sock",
           "no_host": "http:///var/run/docker.sock", "empty": ""}


def answered(result):
    """Loot, if the proxy let it through. No answer at all is no defence: the attempt was not judged."""
    if result.get("success"):
        return "status %s: %.80s" % (result.get("status_code"), result.get("body"))
    raise PermissionError("%s: %s" % (result.get("error_type"), result.get("error")))


def ask(path, payload):
    """One framed request as it is, without the client module's care."""
    return exchange(path, struct.pack(">I", len(payload)) + payload)


def exchange(path, raw):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as conn:
        conn.settimeout(10)
        conn.connect(path)
        conn.sendall(raw)
        head = conn.recv(4, socket.MSG_WAITALL)
        if len(head) < 4:
            raise ConnectionError("closed without an answer")
        (length,) = struct.unpack(">I", head)
        return json.loads(conn.recv(length, socket.MSG_WAITALL))


def as_victim(path, request):
    """Says in every field it can think of that it is somebody else."""
    claims = dict.fromkeys(("pack_id", "owner_pack", "principal_id", "principal", "caller", "actor", "user"), VICTIM)
    return ask(path, json.dumps({**request, **claims}).encode())


def claim_request():
    headers = {"X-Rumi-Pack": VICTIM, "X-Rumi-Actor": "operator", "X-Pack-Id": VICTIM}
    return answered(as_victim(EGRESS, {"method": "GET", "url": GRANTED_TO_VICTIM, "headers": headers, "body": None}))


def host_header():
    return answered(rumi_syscall.get("https://example.com/", headers={"Host": "forecast.rumi.test"}))


def split_header():
    return answered(rumi_syscall.get("http://example.com/", headers={"X": "a\r\nHost: 169.254.169.254"}))


def split_method():
    return answered(rumi_syscall.http_request("GET / HTTP/1.1\r\nHost: gateway", "http://example.com/"))


def same_name_twice():
    """Two readers of one object may see two urls."""
    return answered(ask(EGRESS, b'{"method":"GET","url":"https://example.com/","url":"http://169.254.169.254/"}'))


def huge_frame():
    result = exchange(EGRESS, b"\xff\xff\xff\xff" + b"x" * 1024)
    return answered(result)


def still_served():
    """Broken frames, and then a right one: who listens must still be there, and still refuse."""
    for raw in (b"\0\0\0\0", b"\0\0\0\x02{}", b"\0\0\0\x05\xff\xfe\0{}", b"\0\0\0\x02[]"):
        try:
            exchange(EGRESS, raw)
        except (OSError, ValueError):
            pass
    result = rumi_syscall.get("https://example.com/")
    if result["error_type"] != "grant_denied":
        return "the proxy answers %s" % result
    return None


def secret(key):
    value = rumi_capability.get_secret(key)
    return None if value is None else "a secret of %d characters" % len(value)


def claim_secret():
    args = {"key": SECRET_OF_VICTIM, "principal_id": VICTIM, "allowed_keys": [SECRET_OF_VICTIM]}
    request = {"permission_id": "secrets.get", "args": args, "grant_config": {"allowed_keys": [SECRET_OF_VICTIM]}}
    return secret_in(as_victim(CAPABILITY, request))


def secret_in(result):
    output = result.get("output")
    if result.get("success") and isinstance(output, dict) and output.get("success"):
        return "a secret: %s" % sorted(output)
    raise PermissionError("%s %s" % (result.get("error"), output))


def capability(permission_id, args):
    result = rumi_capability.call(permission_id, args)
    if result.get("success"):
        return "output %.80s" % result.get("output")
    raise PermissionError("%s: %s" % (result.get("error_type"), result.get("error")))


def others():
    """Every socket that can be seen is one of its own two."""
    found = []
    for folder, _, names in os.walk("/run"):
        found += [os.path.join(folder, name) for name in names]
    found = sorted(set(found) - {EGRESS, CAPABILITY})
    return "sees %s" % found if found else None


def connect(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as conn:
        conn.connect(path)
    return "connected to " + path


def victims_sockets():
    import hashlib

    name = hashlib.sha256(VICTIM.encode()).hexdigest()[:32]
    for pattern in ("/run/rumi/egress/../%s/rumi.sock", "/run/rumi/egress/packs/%s/rumi.sock", "/run/rumi/capability/principals/%s/rumi.sock"):
        try:
            return connect(pattern % name)
        except OSError as error:
            last = error
    raise last


def take_over(path):
    """Puts a socket of its own where its broker's is; the next container there would talk to it."""
    os.rename(path, path + ".old")
    return "moved " + path


def attempts():
    for name, host in HOSTS.items():
        yield "egress_" + name, lambda host=host: answered(rumi_syscall.get("http://%s/" % host, timeout_seconds=10))
    for name, url in SCHEMES.items():
        yield "egress_scheme_" + name, lambda url=url: answered(rumi_syscall.get(url, timeout_seconds=10))
    yield "egress_grant_of_another", lambda: answered(rumi_syscall.get(GRANTED_TO_VICTIM))
    yield "egress_claim_another", claim_request
    yield "egress_host_header", host_header
    yield "egress_split_header", split_header
    yield "egress_split_method", split_method
    yield "egress_same_name_twice", same_name_twice
    yield "egress_huge_frame", huge_frame
    yield "egress_broken_frames", still_served
    yield "secret_not_granted", lambda: secret(SECRET_OF_VICTIM)
    yield "secret_by_path", lambda: secret("../secrets/" + SECRET_OF_VICTIM)
    yield "secret_newline", lambda: secret(SECRET_OF_VICTIM + "\n")
    yield "secret_list", lambda: secret([SECRET_OF_VICTIM])
    yield "secret_claim_another", claim_secret
    yield "capability_not_granted", lambda: capability("fs.read", {"path": "/etc/shadow"})
    yield "capability_unknown", lambda: capability("docker.run", {"image": "x", "privileged": True})
    yield "capability_by_path", lambda: capability("../../handlers/forecast", {})
    yield "sockets_of_others", others
    yield "socket_of_victim", victims_sockets
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"):
        yield "connect_" + os.path.basename(path) + ("_var" if path.startswith("/var") else ""), lambda path=path: connect(path)
    yield "take_over_egress_socket", lambda: take_over(EGRESS)
    yield "take_over_capability_socket", lambda: take_over(CAPABILITY)
