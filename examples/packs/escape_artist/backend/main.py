"""Tries every way out, and prints one line for each and one at the end:

    ATTEMPT write_root: blocked OSError: [Errno 30] Read-only file system: '/escaped'
    RESULT: 70 attempts, 0 escaped

Then it waits to be stopped. It is granted nothing; nothing it tries sends a packet anywhere unless an earlier guard has
failed already, and then it says so instead.
"""

import signal
import sys

import files
import limits
import network
import privileges
import sockets


def one_line(text):
    return " ".join(str(text).split())[:300]


def attempt(name, way_out):
    """Runs one attempt: it returns what it got out, or None; whatever it raises blocked it."""
    try:
        loot = way_out()
    except BaseException as error:  # SystemExit, KeyboardInterrupt, MemoryError, too
        outcome, detail = "blocked", "%s: %s" % (type(error).__name__, error)
    else:
        outcome, detail = ("blocked", "") if loot is None else ("ESCAPED", loot)
    print(one_line("ATTEMPT %s: %s %s" % (name, outcome, detail)))
    return outcome == "ESCAPED"


def main():
    attempts = escaped = 0
    # The limits last: they leave a mess.
    for module in (network, sockets, files, privileges, limits):
        for name, way_out in module.attempts():
            attempts += 1
            escaped += attempt(name, way_out)
    print("RESULT: %d attempts, %d escaped" % (attempts, escaped))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main()
    while True:
        signal.pause()
