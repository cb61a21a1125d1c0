"""Runs in the builder container: installs exactly what request.json lists, with pip, into /work/out.

The last line on standard output is the result: {"ok": true}, or {"ok": false, "kind": ..., "message": ...} with kind
"unreachable" (the index didn't answer), "address" (a host on the way has an address that may not be used), "unlisted"
(a dependency that the lock lacks) or "failed" (pip says why on standard error).

Nothing that is installed is imported. With wheels alone no code of a package runs; a source distribution's build does
run, here, so what this prints is believed no more than what lies in /work/out is.
"""

import ipaddress
import json
import os
import socket
import sys

WORK = "/work"
OUT = WORK + "/out"
REQUEST = "/build/request.json"
CA_FILE = "/build/ca.pem"
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"

# Addresses that are nobody's business here (RFC 6890), and every IPv6 form that carries an IPv4 address. A mapped
# address is judged as the IPv4 address that it stands for.
REFUSED = [ipaddress.ip_network(n) for n in (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
    "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2002::/16", "fc00::/7", "fe80::/10",
    "fec0::/10", "ff00::/8",
)]


class Judge:
    """Stands in for socket.getaddrinfo, so that pip connects to the very addresses that were judged."""

    def __init__(self, allowed):
        self.allowed = [ipaddress.ip_network(n) for n in allowed]
        self.resolve = socket.getaddrinfo
        self.refused = None

    def may_use(self, text):
        address = ipaddress.ip_address(text.split("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if any(address in n for n in self.allowed if n.version == address.version):
            return True
        return not any(address in n for n in REFUSED if n.version == address.version)

    def __call__(self, host, *args, **kwargs):
        answers = self.resolve(host, *args, **kwargs)
        # One internal answer spoils all: which of them is connected to is not for the name's owner to choose.
        if not all(self.may_use(answer[4][0]) for answer in answers):
            self.refused = str(host)
            raise socket.gaierror(socket.EAI_FAIL, "address is internal")
        return answers


class Watch:
    """Notes whether the index failed to answer, and lets pip go nowhere but by HTTPS, whatever a page links to."""

    def __init__(self, pool):
        self.failed = False
        inner = pool.urlopen

        def urlopen(this, *args, **kwargs):
            if this.scheme != "https":
                raise OSError(f"{this.scheme}://{this.host} is not HTTPS")
            try:
                response = inner(this, *args, **kwargs)
            except Exception:
                self.failed = True
                raise
            self.failed = response.status >= 500
            return response

        pool.urlopen = urlopen


def bundle():
    """The certificates that pip brings, the image's and the operator's in one file."""
    from pip._vendor import certifi

    path = WORK + "/ca.pem"
    with open(path, "w", encoding="utf-8") as out:
        for source in (certifi.where(), SYSTEM_CA, CA_FILE):
            if os.path.exists(source):
                with open(source, encoding="utf-8") as f:
                    out.write(f.read() + "\n")
    return path


def install(request):
    from pip._internal.cli.main import main
    from pip._vendor.urllib3 import connectionpool

    judge = socket.getaddrinfo = Judge(request["allow_cidrs"])
    watch = Watch(connectionpool.HTTPConnectionPool)
    with open(WORK + "/requirements.txt", "w", encoding="ascii") as f:
        f.writelines(line + "\n" for line in request["requirements"])
    args = [
        "--isolated", "--no-input", "--disable-pip-version-check", "--no-color", "--retries", "2", "--timeout", "20",
        "--cert", bundle(), "install", "--no-cache-dir", "--no-deps", "--no-compile", "--ignore-installed",
        "--no-warn-script-location", "--progress-bar", "off", "--target", OUT, "--requirement", WORK + "/requirements.txt",
    ]
    if not request["allow_sdist"]:
        args += ["--only-binary", ":all:"]
    if request["index_url"]:
        args += ["--index-url", request["index_url"]]
    if main(args) == 0:
        return None
    if judge.refused:
        return "address", judge.refused
    return ("unreachable" if watch.failed else "failed"), ""


def unlisted(extras):
    """The first dependency of what is installed that is not installed, because the lock doesn't list it."""
    from importlib.metadata import distributions
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import canonicalize_name

    installed = {canonicalize_name(d.metadata["Name"]): d for d in distributions(path=[OUT])}
    todo = [(name, extra) for name in installed for extra in ["", *extras.get(name, [])]]
    done = set()
    while todo:
        name, extra = pair = todo.pop()
        if pair in done:
            continue
        done.add(pair)
        for text in installed[name].requires or []:
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            needed = canonicalize_name(requirement.name)
            if needed not in installed:
                return "unlisted", f"{name} needs {requirement.name}"
            todo += [(needed, canonicalize_name(e)) for e in requirement.extras]
    return None


def run():
    with open(REQUEST, encoding="utf-8") as f:
        request = json.load(f)
    for name in (OUT, os.environ["TMPDIR"]):
        os.mkdir(name)
    return install(request) or unlisted(request["extras"])


if __name__ == "__main__":
    # pip and whatever it runs write to standard error; standard output is the result's.
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    problem = run()
    answer = {"ok": True} if problem is None else {"ok": False, "kind": problem[0], "message": problem[1]}
    print("\n" + json.dumps(answer), file=result, flush=True)
    sys.exit(0 if problem is None else 1)
