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
from concurrent.futures import ThreadPoolExecutor

# Seconds after which a connection is used again while others are still being opened: no server
# waits for ever.
REST = 40
# Seconds for one step of a connection, on machines that are busy with other things as well.
PATIENCE = 60
# Connections of which something is asked at the same time, so that none waits for the others'
# turns on the processors.
PARALLEL = 32

host, authority, version = sys.argv[1:]
context = ssl.create_default_context()
context.load_verify_locations(authority)
context.set_alpn_protocols(["http/1.1"])
wish = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


class Connection:
    def __init__(self):
        stream = socket.create_connection((host, 443), timeout=PATIENCE)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = context.wrap_socket(stream, server_hostname=host)
        assert self.stream.version() == version, self.stream.version()
        self.requests = 0
        self.ask()

    def ask(self):
        self.stream.sendall(wish)
        answer = b""
        while not complete(answer):
            piece = self.stream.recv(65536)
            assert piece, f"closed after {answer}"
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert b"connection: close" not in answer.lower(), answer
        self.asked = time.monotonic()
        self.requests += 1


def complete(answer):
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    assert length, answer
    return len(body) == int(length[1])


def ask(connections):
    # Results are taken, so that no failure is lost.
    list(pool.map(Connection.ask, connections))


def open_more(number):
    for start in range(0, number, PARALLEL):
        some = range(start, min(start + PARALLEL, number))
        connections.extend(pool.map(lambda _: Connection(), some))
        late = time.monotonic() - REST
        # The first is the oldest, and all are asked then.
        if connections[0].asked < late:
            ask(connections)


pool = ThreadPoolExecutor(PARALLEL)
connections = []
requests = 0
for line in sys.stdin:
    command, *arguments = line.split()
    if command == "open":
        open_more(int(arguments[0]))
    elif command == "ask":
        # Who has rested longest comes first.
        ask(sorted(connections, key=lambda connection: connection.asked))
    elif command == "close":
        requests += sum(connection.requests for connection in connections)
        for connection in connections:
            connection.stream.close()
        connections.clear()
    else:
        sys.exit(f"no such command: {line}")
    print(requests + sum(connection.requests for connection in connections))
    print("-- end --", flush=True)
