"""Sends requests all the time, over HTTP_PROXY and as frames. Prints failures, gaps and changes of its grant, as lines of JSON.

at is the time in seconds since 1970. gap is the time without an answer in that way, in seconds, if it was over 0.1 s.
"""

import json
import threading
import time
import urllib.error
import urllib.request

import rumi_syscall

SECURE, PLAIN = "https://tools.rumi.test:8443/hello", "http://tools.rumi.test:8081/hello"

printing = threading.Lock()


def emit(**what):
    with printing:
        print(json.dumps(what), flush=True)


def over_http():
    with urllib.request.urlopen(SECURE, timeout=60) as answer:
        answer.read()


def over_frames():
    answer = rumi_syscall.get(SECURE)
    if not answer["success"]:
        raise OSError(answer["error"])


def send_requests(way, fetch):
    last = time.monotonic()
    while True:
        try:
            fetch()
        except OSError as error:
            emit(way=way, failed=repr(error), at=time.time())
            if "403" in repr(error) or "denied" in repr(error):
                time.sleep(0.1)  # the grant is gone; asking again at once would only fill the log
            continue
        now = time.monotonic()
        if now - last > 0.1:
            emit(way=way, gap=now - last, at=time.time())
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
            emit(allowed=allowed, at=time.time())
        was = allowed
        time.sleep(0.002)


for way, fetch in (("http", over_http), ("frames", over_frames)):
    threading.Thread(target=send_requests, args=(way, fetch), daemon=True).start()
watch()
