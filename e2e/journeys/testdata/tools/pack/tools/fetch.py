"""fetch.py LIBRARY {ACTION URL}...: does each with that library as its documentation shows, and prints what came of it."""

import importlib
import sys
import urllib.error
import urllib.request

LIBRARY = sys.argv[1]
BODY = b"x" * (1 << 20)


class Urllib:
    def get(self, url):
        with urllib.request.urlopen(url, timeout=60) as r:
            return r.status, r.read().decode()

    def post(self, url):
        with urllib.request.urlopen(urllib.request.Request(url, data=BODY), timeout=60) as r:
            return r.status, r.read().decode()

    def download(self, url):
        with urllib.request.urlopen(url, timeout=60) as r:
            return r.status, f"{sum(len(chunk) for chunk in iter(lambda: r.read(65536), b''))} bytes"

    def events(self, url, next_url):
        with urllib.request.urlopen(url, timeout=60) as r:
            return r.status, talk((line.decode() for line in r), lambda: self.get(next_url))


class Requests:
    def __init__(self):
        self.requests = importlib.import_module("requests")

    def get(self, url):
        r = self.requests.get(url, timeout=60)
        return r.status_code, r.text

    def post(self, url):
        r = self.requests.post(url, data=iter([BODY]), timeout=60)  # chunked
        return r.status_code, r.text

    def download(self, url):
        with self.requests.get(url, timeout=60, stream=True) as r:
            return r.status_code, f"{sum(len(chunk) for chunk in r.iter_content(65536))} bytes"

    def events(self, url, next_url):
        with self.requests.get(url, timeout=60, stream=True) as r:
            return r.status_code, talk(r.iter_lines(chunk_size=None, decode_unicode=True), lambda: self.get(next_url))


class Httpx:
    def __init__(self):
        self.httpx = importlib.import_module("httpx")

    def get(self, url):
        r = self.httpx.get(url, timeout=60, follow_redirects=True)
        return r.status_code, r.text

    def post(self, url):
        r = self.httpx.post(url, content=BODY, timeout=60)
        return r.status_code, r.text

    def download(self, url):
        with self.httpx.stream("GET", url, timeout=60) as r:
            return r.status_code, f"{sum(len(chunk) for chunk in r.iter_bytes())} bytes"

    def events(self, url, next_url):
        with self.httpx.stream("GET", url, timeout=60) as r:
            return r.status_code, talk(r.iter_lines(), lambda: self.get(next_url))


def talk(lines, ask_for_more):
    """Reads two events, of which the second is sent only when the first has arrived."""
    seen = []
    for line in lines:
        if line.startswith("data: "):
            seen.append(line.removeprefix("data: ").strip())
            if len(seen) == 1:
                ask_for_more()
    return " ".join(seen)


client = {"urllib": Urllib, "requests": Requests, "httpx": Httpx}[LIBRARY]()
for action, url in zip(sys.argv[2::2], sys.argv[3::2]):
    try:
        arguments = [url, url.replace("/events", "/next")] if action == "events" else [url]
        status, text = getattr(client, action)(*arguments)
        print(f"{action} {url}: {status} {text}".strip())
    except Exception as error:  # noqa: BLE001, whatever the library raises is what the test is about
        said = error.read().decode().strip() if isinstance(error, urllib.error.HTTPError) else ""
        print(f"{action} {url}: {type(error).__name__} {error} {said}".replace("\n", " ").strip())
