"""The two client modules against a real server on a Unix socket."""

import contextlib
import io
import json
import os
import select
import socket
import struct
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import rumi_capability
import rumi_socket
import rumi_syscall


def frame(data):
    return struct.pack(">I", len(data)) + data


def forget():
    """Closes the connections that this thread keeps."""
    for module in (rumi_syscall, rumi_capability):
        module._caller._take_idle("")


def read_exactly(conn, length):
    data = b""
    while len(data) < length:
        more = conn.recv(length - len(data))
        if not more:
            return None
        data += more
    return data


class Server:
    """Answers each request with what answer(request) gives: a dict, raw bytes, or None to close the connection."""

    def __init__(self, path, answer):
        self.answer = answer
        self.requests = []
        self.connections = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(conn)
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        try:
            self._converse(conn)
        except OSError:
            pass  # closed by the client or by the test

    def _converse(self, conn):
        while True:
            head = read_exactly(conn, 4)
            if head is None:
                return
            request = json.loads(read_exactly(conn, struct.unpack(">I", head)[0]))
            self.requests.append(request)
            answer = self.answer(request)
            if answer is None:
                conn.close()
                return
            conn.sendall(answer if isinstance(answer, bytes) else frame(json.dumps(answer).encode()))

    def hang_up(self):
        """Closes all connections; returns when their other ends can see it."""
        for conn in self.connections:
            if conn.fileno() >= 0:
                conn.shutdown(socket.SHUT_RDWR)

    def close(self):
        if self.listener.fileno() >= 0:
            # Frees a thread that waits in accept, which close alone does not.
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        for conn in self.connections:
            conn.close()


class Case(unittest.TestCase):
    def setUp(self):
        self.addCleanup(forget)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "rumi.sock")
        for module in (rumi_syscall, rumi_capability):
            was, module.SOCKET_PATH = module.SOCKET_PATH, self.path
            self.addCleanup(setattr, module, "SOCKET_PATH", was)
        self.wait_for_takeover(0)

    def wait_for_takeover(self, seconds):
        was, rumi_socket.TAKEOVER = rumi_socket.TAKEOVER, seconds
        self.addCleanup(setattr, rumi_socket, "TAKEOVER", was)

    def serve(self, answer):
        server = Server(self.path, answer)
        self.addCleanup(server.close)
        return server

    def failed(self, result, error_type):
        self.assertIs(result["success"], False)
        self.assertEqual(result["error_type"], error_type, result)
        self.assertIsInstance(result["error"], str)


class Syscall(Case):
    def test_requests(self):
        answer = {"success": True, "status_code": 200, "body": "héllo", "headers": {"A": "b"}}
        server = self.serve(lambda request: answer)
        url, headers = "https://api.example.com/", {"X": "y"}
        calls = {
            "GET": lambda: rumi_syscall.get(url, headers, 5),
            "HEAD": lambda: rumi_syscall.head(url, headers, 5),
            "DELETE": lambda: rumi_syscall.delete(url, headers, 5),
            "POST": lambda: rumi_syscall.post(url, "bödy", headers, 5),
            "PUT": lambda: rumi_syscall.put(url, "bödy", headers, 5),
            "PATCH": lambda: rumi_syscall.patch(url, "bödy", headers, 5),
        }
        for method, call in calls.items():
            with self.subTest(method):
                self.assertEqual(call(), answer)
                body = "bödy" if method in ("POST", "PUT", "PATCH") else None
                self.assertEqual(
                    server.requests[-1],
                    {"method": method, "url": url, "headers": headers, "body": body, "timeout_seconds": 5.0},
                )
        self.assertEqual(len(server.connections), 1)

    def test_http_request(self):
        server = self.serve(lambda request: {"success": True})
        rumi_syscall.http_request("get", "https://x/")
        self.assertEqual(
            server.requests[-1], {"method": "GET", "url": "https://x/", "headers": {}, "body": None, "timeout_seconds": 30.0}
        )
        rumi_syscall.request(method="PUT", url="https://x/", headers=None, body="b", timeout_seconds=500, socket_path=self.path)
        self.assertEqual(server.requests[-1]["timeout_seconds"], 120.0)

    def test_post_json(self):
        server = self.serve(lambda request: {"success": True})
        rumi_syscall.post_json("https://x/", {"ä": [1, None]}, headers={"content-type": "text/plain", "A": "b"})
        self.assertEqual(server.requests[-1]["headers"], {"A": "b", "Content-Type": "application/json"})
        self.assertEqual(json.loads(server.requests[-1]["body"]), {"ä": [1, None]})
        self.failed(rumi_syscall.post_json("https://x/", object()), "validation_error")
        self.failed(rumi_syscall.post_json("https://x/", {}, headers=3), "validation_error")
        rumi_syscall.post_json("https://x/", None)
        self.assertEqual(server.requests[-1]["body"], "null")

    def test_json_and_params(self):
        server = self.serve(lambda request: {"success": True})
        for call in (rumi_syscall.post, rumi_syscall.put, rumi_syscall.patch):
            call("https://x/a?b=c#d", json={"ä": 1}, params={"e": ["f g", 2]}, headers={"CONTENT-TYPE": "x"})
            self.assertEqual(server.requests[-1]["url"], "https://x/a?b=c&e=f+g&e=2#d")
            self.assertEqual(server.requests[-1]["headers"], {"Content-Type": "application/json"})
            self.assertEqual(json.loads(server.requests[-1]["body"]), {"ä": 1})
        rumi_syscall.get("https://x/", params=[("a", "ü"), ("a", "&")])
        self.assertEqual(server.requests[-1]["url"], "https://x/?a=%C3%BC&a=%26")

    def test_bytes_that_are_text(self):
        server = self.serve(lambda request: {"success": True})
        for body in ("bödy".encode(), bytearray("bödy".encode()), memoryview("bödy".encode())):
            rumi_syscall.post("https://x/", body)
            self.assertEqual(server.requests[-1]["body"], "bödy")

    def test_times(self):
        server = self.serve(lambda request: {"success": True})
        for given, sent in (
            (None, {"timeout_seconds": 30.0}),
            ("7", {"timeout_seconds": 7.0}),
            (float("inf"), {"timeout_seconds": 120.0}),
            ((5, 30), {"connect_timeout_seconds": 5.0, "read_timeout_seconds": 30.0, "timeout_seconds": 120.0}),
            ([None, 1000], {"connect_timeout_seconds": 120.0, "read_timeout_seconds": 120.0, "timeout_seconds": 120.0}),
        ):
            with self.subTest(given=given):
                self.assertTrue(rumi_syscall.get("https://x/", timeout_seconds=given)["success"])
                request = server.requests[-1]
                self.assertEqual({name: request[name] for name in request if "timeout" in name}, sent)

    def test_every_failure_names_what_to_write(self):
        """Each way of asking wrongly, also where a text is made of the odd value itself."""
        self.serve(lambda request: {"success": True})
        for kwargs, text in (
            ({"timeout_seconds": ()}, "two: (connect, read)"),
            ({"timeout_seconds": (1, 2, 3)}, "two: (connect, read)"),
            ({"timeout_seconds": (1, "soon")}, "must be a number of seconds, not str"),
            ({"timeout_seconds": 10**400}, "must be a number of seconds, not int"),
            ({"headers": {"X-N": 5}}, "header 'X-N' must be text, not int"),
            ({"headers": {"X-N": None}}, "header 'X-N' must be text, not NoneType"),
            ({"headers": {5: "x"}}, "name of a header must be text"),
            ({"headers": [("a", "b")]}, "headers must be a dict"),
            ({"body": {"a": 1}}, "post_json and json= send data as JSON"),
            ({"body": b"\xff"}, "send bytes with requests or urllib"),
            ({"body": "x" * (1 << 20)}, "use HTTP_PROXY"),
            ({"json": {"a": {1, 2}}}, "can't be written as JSON"),
            ({"json": float("nan")}, "can't be written as JSON"),
            ({"json": {}, "body": "x"}, "not both"),
            ({"params": 5}, "params must be a dict"),
        ):
            with self.subTest(**{k: str(v)[:20] for k, v in kwargs.items()}):
                answer = rumi_syscall.http_request("POST", "https://x/", **kwargs)
                self.failed(answer, "validation_error")
                self.assertIn(text, answer["error"])

    def test_a_time_out_of_two_numbers_is_in_the_error(self):
        release = threading.Event()
        self.addCleanup(release.set)
        self.serve(lambda request: release.wait() and None)
        was = rumi_syscall.MAX_TIMEOUT, rumi_syscall._GRACE
        rumi_syscall.MAX_TIMEOUT, rumi_syscall._GRACE = 0.05, 0.05
        self.addCleanup(lambda: setattr(rumi_syscall, "MAX_TIMEOUT", was[0]) or setattr(rumi_syscall, "_GRACE", was[1]))
        answer = rumi_syscall.get("https://x/", timeout_seconds=(5, 30))
        self.failed(answer, "timeout")
        self.assertEqual(answer["error"], "Request timed out after (5, 30)s (0.05 at most)")

    def test_answer_of_the_whole_limit(self):
        body = "x" * (rumi_syscall.MAX_RESPONSE_SIZE - len('{"body": ""}'))
        self.serve(lambda request: {"body": body})
        self.assertEqual(rumi_syscall.get("https://x/")["body"], body)

    def test_failures_are_answers_of_the_same_shape(self):
        self.assertEqual(
            rumi_syscall.get("https://x/"),
            {
                "success": False, "status_code": None, "headers": None, "body": None,
                "error": "Egress proxy socket not found: " + self.path, "error_type": "socket_not_found",
                "latency_ms": 0, "redirect_hops": 0, "bytes_read": 0, "final_url": None,
            },
        )

    def test_nobody_listens(self):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.close()
        self.failed(rumi_syscall.get("https://x/"), "connection_refused")

    def test_what_is_asked_wrongly(self):
        self.serve(lambda request: {"success": True})
        for kwargs, error_type in (
            ({"method": None, "url": "https://x/"}, "validation_error"),
            ({"method": "GET", "url": object()}, "validation_error"),
            ({"method": "GET", "url": "https://x/", "timeout_seconds": "soon"}, "validation_error"),
            ({"method": "GET", "url": "https://x/", "timeout_seconds": float("nan")}, "validation_error"),
            ({"method": "GET", "url": "https://x/", "timeout_seconds": -10}, "timeout"),
            ({"method": "GET", "url": "https://x/\udc80"}, "UnicodeEncodeError"),
            ({"method": "POST", "url": "https://x/", "body": b"\xff"}, "validation_error"),
            ({"method": "POST", "url": "https://x/", "body": "x" * (1 << 20)}, "validation_error"),
            ({"method": "GET", "url": "https://x/", "socket_path": "x" * 200}, "OSError"),
        ):
            with self.subTest(**{k: str(v)[:20] for k, v in kwargs.items()}):
                self.failed(rumi_syscall.http_request(**kwargs), error_type)
        self.assertTrue(rumi_syscall.get("https://x/")["success"])

    def test_nonsense_for_an_answer(self):
        answers = {
            "syscall_error": [None, b"\0\0\0\0", frame(b"[]"), struct.pack(">I", (4 << 20) + 1), b"\xff\xff\xff\xff"],
            "json_decode_error": [frame(b"{"), frame(b" ")],
            "UnicodeDecodeError": [frame(b'"\xff"')],
        }
        good = {"success": True}
        queue = []
        self.serve(lambda request: queue.pop())
        for error_type, raws in answers.items():
            for raw in raws:
                with self.subTest(raw=raw):
                    queue.append(raw)
                    self.failed(rumi_syscall.get("https://x/"), error_type)
                    queue.append(good)
                    self.assertEqual(rumi_syscall.get("https://x/"), good)

    def test_silence(self):
        release = threading.Event()
        self.addCleanup(release.set)
        self.serve(lambda request: release.wait() and None)
        was, rumi_syscall._GRACE = rumi_syscall._GRACE, 0.05
        self.addCleanup(setattr, rumi_syscall, "_GRACE", was)
        self.failed(rumi_syscall.get("https://x/", timeout_seconds=0.05), "timeout")

    def test_half_an_answer(self):
        def half(request):
            server.connections[-1].sendall(b"\0\0\0\x08half")

        server = self.serve(half)  # closes after the half
        self.failed(rumi_syscall.get("https://x/"), "syscall_error")
        self.assertEqual(len(server.requests), 1)


class Trace(Case):
    """Requests belong to the trace that stands in the environment, as the worker of a handler sets it for each call."""

    def setUp(self):
        super().setUp()
        for name in ("TRACEPARENT", "TRACESTATE"):
            was = os.environ.pop(name, None)
            if was is not None:
                self.addCleanup(os.environ.__setitem__, name, was)
            else:
                self.addCleanup(os.environ.pop, name, None)
        self.server = self.serve(lambda request: {"success": True, "output": None})

    def sent(self):
        """Return the trace of a capability call and of an HTTP request."""
        rumi_capability.call("fs.read")
        called = self.server.requests[-1]
        rumi_syscall.get("https://x/", headers={"A": "b"})
        asked = self.server.requests[-1]["headers"]
        self.assertEqual(asked.pop("A"), "b")
        names = ("traceparent", "tracestate")
        return {name: called[name] for name in names if name in called}, asked

    def test_none(self):
        self.assertEqual(self.sent(), ({}, {}))

    def test_of_the_call(self):
        os.environ["TRACEPARENT"] = "00-1-2-01"
        self.assertEqual(self.sent(), ({"traceparent": "00-1-2-01"},) * 2)
        os.environ["TRACESTATE"] = "rumi=x"
        self.assertEqual(self.sent(), ({"traceparent": "00-1-2-01", "tracestate": "rumi=x"},) * 2)

    def test_of_the_start_counts_for_a_while(self):
        os.environ["TRACEPARENT"] = "00-1-2-01"
        for name, value in (("_STARTED", "00-1-2-01"), ("_STARTING", time.monotonic() + 60)):
            self.addCleanup(setattr, rumi_socket, name, getattr(rumi_socket, name))
            setattr(rumi_socket, name, value)
        self.assertEqual(self.sent(), ({"traceparent": "00-1-2-01"},) * 2)
        rumi_socket._STARTING = time.monotonic()
        self.assertEqual(self.sent(), ({}, {}))
        os.environ["TRACEPARENT"] = "00-3-4-01"
        self.assertEqual(self.sent(), ({"traceparent": "00-3-4-01"},) * 2)

    def test_of_the_caller_comes_first(self):
        os.environ["TRACEPARENT"] = "00-1-2-01"
        os.environ["TRACESTATE"] = "rumi=x"
        rumi_syscall.get("https://x/", headers={"Traceparent": "00-5-6-01"})
        self.assertEqual(self.server.requests[-1]["headers"], {"Traceparent": "00-5-6-01"})


class Connections(Case):
    def test_each_thread_keeps_one(self):
        server = self.serve(lambda request: {"success": True})
        ready = threading.Barrier(3)

        def ask():
            ready.wait()
            for _ in range(20):
                self.assertTrue(rumi_syscall.get("https://x/")["success"])
            forget()

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((len(server.connections), len(server.requests)), (3, 60))

    def test_one_that_was_closed_meanwhile_is_opened_again(self):
        server = self.serve(lambda request: {"success": True})
        for n in range(3):
            self.assertTrue(rumi_syscall.get("https://x/")["success"])
            self.assertEqual(len(server.connections), n + 1)
            server.hang_up()
        self.assertEqual(len(server.requests), 3)

    def test_a_server_that_came_back(self):
        server = self.serve(lambda request: {"success": True})
        self.assertTrue(rumi_syscall.get("https://x/")["success"])
        server.hang_up()
        server.close()
        self.failed(rumi_syscall.get("https://x/"), "connection_refused")
        os.unlink(self.path)
        self.serve(lambda request: {"success": True})
        self.assertTrue(rumi_syscall.get("https://x/")["success"])

    def ask_meanwhile(self):
        answers = []

        def ask():
            answers.append(rumi_syscall.get("https://x/"))
            forget()

        asking = threading.Thread(target=ask)
        asking.start()
        return answers, asking

    def test_a_server_that_is_replaced(self):
        """Nobody listens, then there is nothing, then another: the call waits, and is sent once."""
        self.wait_for_takeover(60)
        self.serve(lambda request: {"success": True}).close()
        answers, asking = self.ask_meanwhile()
        for step in (lambda: os.unlink(self.path), lambda: servers.append(self.serve(lambda request: {"success": True}))):
            time.sleep(0.05)
            servers = []
            step()
        asking.join(60)
        self.assertEqual([answer["success"] for answer in answers], [True])
        self.assertEqual(len(servers[0].requests), 1)

    def test_a_server_that_dies_without_reading(self):
        """It still listens while it dies, and whoever connects then is never served: the next one is asked."""
        self.wait_for_takeover(60)
        dying = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        dying.bind(self.path)
        dying.listen()
        answers, asking = self.ask_meanwhile()
        while not select.select([dying], [], [], 60)[0]:
            pass
        os.unlink(self.path)
        server = self.serve(lambda request: {"success": True})
        dying.close()
        asking.join(60)
        self.assertEqual([answer["success"] for answer in answers], [True])
        self.assertEqual(len(server.requests), 1)

    def test_a_server_that_dies_with_a_request(self):
        """It has read all of it, and may have done what it says."""
        server = self.serve(lambda request: None)
        self.failed(rumi_syscall.get("https://x/"), "syscall_error")
        self.assertEqual(len(server.requests), 1)

    def test_a_socket_that_nobody_will_make(self):
        self.wait_for_takeover(60)
        self.failed(rumi_syscall.http_request("GET", "https://x/", socket_path="/nonexistent/rumi.sock"), "socket_not_found")

    def test_closed_between_look_and_send(self):
        """The look at a kept connection says it is fine; the send finds it closed, with nothing sent."""
        server = self.serve(lambda request: {"success": True})
        self.assertTrue(rumi_syscall.get("https://x/")["success"])
        server.hang_up()
        was, rumi_socket._readable = rumi_socket._readable, lambda conn: False
        self.addCleanup(setattr, rumi_socket, "_readable", was)
        self.assertTrue(rumi_syscall.get("https://x/")["success"])
        self.assertEqual((len(server.connections), len(server.requests)), (2, 2))

    def test_nothing_is_asked_twice(self):
        answers = [{"success": True}]
        server = self.serve(lambda request: answers.pop() if answers else None)
        self.assertTrue(rumi_syscall.get("https://x/")["success"])
        self.failed(rumi_syscall.post("https://x/", "pay"), "syscall_error")
        self.assertEqual(len(server.requests), 2)

    def test_an_answer_nobody_waits_for_is_not_the_next_one(self):
        server = self.serve(lambda request: {"success": True, "to": request["url"]})
        rumi_syscall.get("https://a/")
        server.connections[0].sendall(frame(b'{"success": true, "to": "forged"}'))
        self.assertEqual(rumi_syscall.get("https://b/")["to"], "https://b/")

    def test_a_fork_opens_its_own(self):
        server = self.serve(lambda request: {"success": True, "to": request["url"]})
        rumi_syscall.get("https://parent/")
        child = os.fork()
        if child == 0:
            fine = rumi_syscall.get("https://child/").get("to") == "https://child/"
            os._exit(0 if fine else 1)
        _, status = os.waitpid(child, 0)
        self.assertEqual(status, 0)
        self.assertEqual(rumi_syscall.get("https://parent/")["to"], "https://parent/")
        self.assertEqual(len(server.connections), 2)

    def test_another_path_is_another_connection(self):
        first = self.serve(lambda request: {"by": "first"})
        other = self.path + "2"
        second = Server(other, lambda request: {"by": "second"})
        self.addCleanup(second.close)
        for _ in range(2):
            self.assertEqual(rumi_syscall.http_request("GET", "https://x/")["by"], "first")
            self.assertEqual(rumi_syscall.http_request("GET", "https://x/", socket_path=other)["by"], "second")
        self.assertEqual(len(first.requests), 2)


class Capability(Case):
    def test_call(self):
        answer = {"success": True, "output": [1], "error": None, "error_type": None, "latency_ms": 1}
        server = self.serve(lambda request: answer)
        self.assertEqual(rumi_capability.call("fs.read", {"path": "x"}, request_id="r1"), answer)
        self.assertEqual(
            server.requests[-1], {"permission_id": "fs.read", "args": {"path": "x"}, "timeout_seconds": 30.0, "request_id": "r1"}
        )
        rumi_capability.call("fs.read", timeout_seconds=1000)
        self.assertEqual(server.requests[-1], {"permission_id": "fs.read", "args": {}, "timeout_seconds": 120.0})

    def test_failures(self):
        self.assertEqual(
            rumi_capability.call("fs.read"),
            {
                "success": False, "output": None, "error": "Capability proxy socket not found: " + self.path,
                "error_type": "socket_not_found", "latency_ms": 0,
            },
        )
        self.serve(lambda request: None)
        self.failed(rumi_capability.call("fs.read"), "capability_error")
        self.failed(rumi_capability.call("fs.read", {"x": object()}), "TypeError")
        self.failed(rumi_capability.call("fs.read", {"x": "x" * (4 << 20)}), "validation_error")

    def test_a_missing_socket_is_warned_of_once(self):
        """None alone looks like a secret that isn't set."""
        was, rumi_capability._warned = rumi_capability._warned, False
        self.addCleanup(setattr, rumi_capability, "_warned", was)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            for _ in range(2):
                self.assertIsNone(rumi_capability.get_secret("KEY"))
        self.assertEqual(
            said.getvalue(), "rumi: no capability socket at %s: is this running as a pack? get_secret gives None\n" % self.path
        )

    def test_times(self):
        server = self.serve(lambda request: {"success": True})
        rumi_capability.call("fs.read", timeout_seconds=None)
        self.assertEqual(server.requests[-1]["timeout_seconds"], 30.0)
        for odd in ((1, 2), "soon", (), float("nan")):
            with self.subTest(odd=odd):
                self.failed(rumi_capability.call("fs.read", timeout_seconds=odd), "validation_error")

    def test_get_secret(self):
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertIsNone(rumi_capability.get_secret("KEY"))
        good = {"success": True, "output": {"success": True, "value": "välue"}}
        answers = {
            json.dumps(answer): (answer, value)
            for answer, value in (
                (good, "välue"),
                ({"success": True, "output": {"success": True, "value": ""}}, ""),
                ({"success": True, "output": {"success": False, "error_type": "access_denied"}}, None),
                ({"success": True, "output": {"success": False, "value": "not yours"}}, None),
                ({"success": False, "error_type": "grant_denied", "output": None}, None),
                ({"success": False, "output": {"success": True, "value": "not yours"}}, None),
                ({"success": True, "output": {"success": True, "value": 3}}, None),
                ({"success": True, "output": {"success": True}}, None),
                ({"success": True, "output": "text"}, None),
                ({}, None),
            )
        }
        queue = []
        server = self.serve(lambda request: queue.pop())
        for name, (answer, value) in answers.items():
            with self.subTest(name):
                queue.append(answer)
                self.assertEqual(rumi_capability.get_secret("KEY"), value)
                self.assertEqual((server.requests[-1]["permission_id"], server.requests[-1]["args"]), ("secrets.get", {"key": "KEY"}))


if __name__ == "__main__":
    unittest.main()
