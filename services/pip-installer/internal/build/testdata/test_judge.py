"""Which addresses build.py lets pip connect to: the class "Addresses" of conformance.md. Nothing is dialled or resolved."""

import socket
import sys
import unittest

sys.path.insert(0, "/build")
import build  # noqa: E402

REFUSED = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 169.254.0.1
169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.170 192.168.0.1 192.168.255.255 198.18.0.1
198.19.255.255 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:0 64:ff9b::7f00:1 64:ff9b::808:808
64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1:: 2002:7f00:1:: 2002:808:808::1 fc00::1 fd00:ec2::254 fdff::1 fe80::1
fe80::1%eth0 febf::1 fec0::1 feff::1 ff02::1 ff0e::1
""".split()
USABLE = """
1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0
172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0
223.255.255.255 2606:4700::1111 2a00::1 2001:200::1 ::ffff:1.1.1.1
""".split()


def resolving_to(*addresses):
    return lambda host, port, *rest, **named: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]


def judge(allowed=(), answers=()):
    j = build.Judge(allowed)
    j.resolve = resolving_to(*answers)
    return j


class Test(unittest.TestCase):
    def test_single_addresses(self):
        for text in REFUSED:
            with self.subTest(text), self.assertRaises(socket.gaierror):
                judge(answers=[text])("index", 443)
        for text in USABLE:
            with self.subTest(text):
                self.assertEqual(len(judge(answers=[text])("index", 443)), 1)

    def test_one_internal_answer_spoils_all(self):
        j = judge(answers=["1.1.1.1", "127.0.0.1"])
        with self.assertRaises(socket.gaierror):
            j("index", 443)
        self.assertEqual(j.refused, "index")

    def test_allowed_networks(self):
        j = judge(["10.1.0.0/16", "fd00::/8"], ["10.1.2.3", "fd00::1", "1.1.1.1", "::ffff:10.1.2.3"])
        self.assertEqual(len(j("index", 443)), 4)
        j.resolve = resolving_to("10.2.0.1")
        with self.assertRaises(socket.gaierror):
            j("index", 443)

    def test_a_second_answer_is_judged_too(self):
        j = judge(answers=["1.1.1.1"])
        j("index", 443)
        j.resolve = resolving_to("192.168.0.1")
        with self.assertRaises(socket.gaierror):
            j("index", 443)

    def test_only_https(self):
        class Pool:
            scheme, host = "http", "index"

            def urlopen(self, *args):
                raise AssertionError("opened")

        build.Watch(Pool)
        with self.assertRaisesRegex(OSError, "http://index is not HTTPS"):
            Pool().urlopen("GET", "/")


if __name__ == "__main__":
    unittest.main()
