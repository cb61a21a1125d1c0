"""Sends one request after another, each way there is, and prints what goes wrong and what changes, as lines of JSON.

at is the time in seconds since 1970. gap is how long no request of that way was answered, if that is noticed at all.
"""

import json
import threading
import time
import urllib.error
import urllib.request

import rumi_syscall

SECURE, PLAIN = "https://tools.rumi.test:8443/hello", "http://tools.rumi.test:8081/hello"

telling = threading.Lock()


def tell(**what):
    with telling:
        print(json.dumps(what), flush=True)


def over_http():
    with urllib.request.urlopen(SECURE, timeout=60) as answer:
        answer.read()


def over_frames():
    answer = rumi_syscall.get(SECURE)
    if not answer["success"]:
        raise OSError(answer["error"])


def go_on(way, fetch):
    last = time.monotonic()
    while True:
        try:
            fetch()
        except OSError as error:
            tell(way=way, failed=repr(error), at=time.time())
            if "403" in repr(error) or "denied" in repr(error):
                time.sleep(0.1)  # the grant is gone, and will be when it is asked again
            continue
        now = time.monotonic()
        if now - last > 0.1:
            tell(way=way, gap=now - last, at=time.time())
        last = now
        time.sleep(0.005)


def watch():
    was = None
    while True:
        try:
            with urllib.request.urlopen(PLAIN, timeout=60) as answer:
                allowed = answer.status == 200
        except urllib.error.HTTPError as error:
            if error.code != 403:
                continue
            allowed = False
        except OSError:
            continue
        if allowed != was:
            tell(allowed=allowed, at=time.time())
        was = allowed
        time.sleep(0.002)


for way, fetch in (("http", over_http), ("frames", over_frames)):
    threading.Thread(target=go_on, args=(way, fetch), daemon=True).start()
watch()
