"""Fetches today's weather, as a pack does: over the egress socket, with a key from the capability socket.

    KEY FORECAST_API_KEY: read
    FORECAST 200 {"place": "Kyoto", "summary": "clear", "high_c": 17, "low_c": 8}
    KEPT /data/today.json
    REFUSED https://elsewhere.rumi.test/ grant_denied: Network access denied: Domain 'elsewhere.rumi.test' not in allowed list
    DONE

It goes on every ten minutes. Where something was not granted it says what, and tries again each minute.
"""

import json
import os
import signal
import sys
import threading

import rumi_capability
import rumi_syscall

KEY = "FORECAST_API_KEY"
URL = "https://forecast.rumi.test:8443/v1/today"
ELSEWHERE = "https://elsewhere.rumi.test/"
KEPT = "/data/today.json"

AGAIN = 10 * 60  # seconds
AFTER_FAILURE = 60


def fetch():
    """One round. Says whether all of it went well."""
    key = rumi_capability.get_secret(KEY)
    if key is None:
        print("KEY %s: none; set the secret and grant secrets.get with it in allowed_keys" % KEY)
        return False
    print("KEY %s: read" % KEY)  # never the key itself: this is a log
    result = rumi_syscall.get(URL, headers={"Authorization": "Bearer " + key, "Accept": "application/json"})
    if not result["success"]:
        print("FAILED %s %s: %s" % (URL, result["error_type"], result["error"]))
        return False
    print("FORECAST %d %s" % (result["status_code"], result["body"].strip()))
    if result["status_code"] != 200:
        return False
    keep(json.loads(result["body"]))
    print("KEPT %s" % KEPT)
    return True


def keep(today):
    """Replaces the file whole: who reads it never sees half of it."""
    with open(KEPT + ".new", "w", encoding="utf-8") as file:
        json.dump(today, file, ensure_ascii=False)
    os.replace(KEPT + ".new", KEPT)


def look_elsewhere():
    """What nobody granted is refused. Says whether it was."""
    result = rumi_syscall.get(ELSEWHERE)
    if result["success"]:
        print("REACHED %s %d" % (ELSEWHERE, result["status_code"]))
        return False
    print("REFUSED %s %s: %s" % (ELSEWHERE, result["error_type"], result["error"]))
    return True


def main():
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    while not stop.is_set():
        try:
            went_well = fetch()
        except (OSError, ValueError) as error:
            print("FAILED %s: %s" % (type(error).__name__, error))
            went_well = False
        went_well = look_elsewhere() and went_well
        print("DONE" if went_well else "NOT DONE; again in %d seconds" % AFTER_FAILURE)
        stop.wait(AGAIN if went_well else AFTER_FAILURE)
    print("STOPPED")


if __name__ == "__main__":
    sys.exit(main())
