"""Python's http.client as a client: `http_client.py PORT`, where an echo listens behind the proxy.

The origin answers every request with its method, path and body, as it read them.
"""

import http.client
import socket
import sys

port = int(sys.argv[1])


def expect(answer, status, body):
    got = answer.read()
    assert (answer.status, got) == (status, body), (answer.status, got[:200], body[:200])


def on_one_connection():
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for n in range(50):
        connection.request("GET", f"/get/{n}", headers={"X-N": str(n)})
        expect(connection.getresponse(), 200, f"GET /get/{n} ".encode())
        data = bytes(range(256)) * n
        connection.request("POST", f"/post/{n}", body=data)
        expect(connection.getresponse(), 200, f"POST /post/{n} ".encode() + data)
        pieces = [b"piece-%d;" % i for i in range(n)]
        connection.request("PUT", f"/chunked/{n}", body=iter(pieces), encode_chunked=True,
                           headers={"Transfer-Encoding": "chunked"})
        expect(connection.getresponse(), 200, f"PUT /chunked/{n} ".encode() + b"".join(pieces))
        connection.request("HEAD", f"/head/{n}")
        answer = connection.getresponse()
        assert answer.getheader("content-length") == str(len(f"HEAD /head/{n} ")), answer.headers
        expect(answer, 200, b"")
    connection.close()


def pipelined():
    stream = socket.create_connection(("127.0.0.1", port), timeout=30)
    sent = b""
    for n in range(30):
        sent += b"GET /p/%d HTTP/1.1\r\nHost: a\r\n\r\n" % n
        sent += b"POST /q/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET " % n
        sent += b"POST /r/%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\n\r\n" % n
    stream.sendall(sent)
    reader = stream.makefile("rb")

    class Whole:
        def makefile(self, *_):
            return Unclosed(reader)

    for n in range(30):
        for body in [b"GET /p/%d " % n, b"POST /q/%d GET " % n, b"POST /r/%d abc" % n]:
            answer = http.client.HTTPResponse(Whole())
            answer.begin()
            expect(answer, 200, body)
    stream.close()


class Unclosed:
    """A reader that the response may close without ending the connection."""

    def __init__(self, reader):
        self.reader = reader

    def __getattr__(self, name):
        return getattr(self.reader, name)

    def close(self):
        pass


def leaves_early():
    for cut in [b"GET /x HTT", b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
                b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
                b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"]:
        for _ in range(5):
            stream = socket.create_connection(("127.0.0.1", port), timeout=30)
            stream.sendall(cut)
            stream.close()


def in_old_style():
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"
    for n in range(5):
        connection.request("GET", f"/old/{n}", headers={"Connection": "keep-alive"})
        expect(connection.getresponse(), 200, f"GET /old/{n} ".encode())


on_one_connection()
pipelined()
leaves_early()
in_old_style()
on_one_connection()
print("all as expected")
