# Holds connections with TLS and HTTP/1.1, and does as it is told, line by line:
#
#   open NUMBER   opens so many more, and makes a request on each
#   ask           makes a request on each
#   close         closes all
#
# Answers with the number of requests so far. Ends with an error as soon as anything is not as it
# should be, and with its input.

import re
import socket
import ssl
import sys
import time

# Seconds after which a connection is used again while others are still being opened: no server
# waits for ever.
REST = 40
# Seconds for one step of a connection, on machines that are busy with other things as well.
PATIENCE = 60

host, authority, version = sys.argv[1:]
context = ssl.create_default_context()
context.load_verify_locations(authority)
context.set_alpn_protocols(["http/1.1"])
wish = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
requests = 0


class Connection:
    def __init__(self):
        stream = socket.create_connection((host, 443), timeout=PATIENCE)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = context.wrap_socket(stream, server_hostname=host)
        assert self.stream.version() == version, self.stream.version()
        self.ask()

    def ask(self):
        global requests
        self.stream.sendall(wish)
        answer = b""
        while not complete(answer):
            piece = self.stream.recv(65536)
            assert piece, f"closed after {answer}"
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert b"connection: close" not in answer.lower(), answer
        self.asked = time.monotonic()
        requests += 1


def complete(answer):
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    assert length, answer
    return len(body) == int(length[1])


connections = []


def open_more(number):
    oldest = 0
    for _ in range(number):
        connections.append(Connection())
        while time.monotonic() - connections[oldest].asked > REST:
            connections[oldest].ask()
            oldest = (oldest + 1) % len(connections)


for line in sys.stdin:
    command, *arguments = line.split()
    if command == "open":
        open_more(int(arguments[0]))
    elif command == "ask":
        # Who has rested longest comes first.
        for connection in sorted(connections, key=lambda connection: connection.asked):
            connection.ask()
    elif command == "close":
        for connection in connections:
            connection.stream.close()
        connections.clear()
    else:
        sys.exit(f"no such command: {line}")
    print(requests)
    print("-- end --", flush=True)
