"""Has so many requests under way at once that none is answered before all have come."""

import socket
import sys

many = int(sys.argv[1])
connections = [socket.create_connection(("127.0.0.1", 3128), timeout=60) for _ in range(many)]
for connection in connections:
    connection.sendall(b"GET http://api.example/ HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n")
answers = 0
for connection in connections:
    with connection.makefile("rb") as answer:
        answers += answer.read().endswith(b"all there")
print(answers, "answers")
