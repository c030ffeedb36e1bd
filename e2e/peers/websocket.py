"""A WebSocket echo with nothing but the standard library: `serve PORT`, and `call PORT`, which checks every echo."""

import base64
import hashlib
import os
import socket
import struct
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def read_head(stream):
    lines = []
    while line := stream.readline().rstrip(b"\r\n"):
        lines.append(line)
    fields = dict(line.lower().split(b": ", 1) for line in lines[1:])
    raw = dict(line.split(b": ", 1) for line in lines[1:])
    return lines[0], fields, {name.lower(): value for name, value in raw.items()}


def accept(key):
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def read_frame(stream):
    first, second = stream.read(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", stream.read(2))
    elif length == 127:
        (length,) = struct.unpack(">Q", stream.read(8))
    mask = stream.read(4) if second & 0x80 else b""
    data = stream.read(length)
    if mask:
        key = (mask * (length // 4 + 1))[:length]
        data = (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")
    return first & 0x0F, data


def frame(opcode, data, masked):
    bit = 0x80 if masked else 0
    if len(data) < 126:
        head = struct.pack(">BB", 0x80 | opcode, bit | len(data))
    elif len(data) < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, bit | 126, len(data))
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, bit | 127, len(data))
    if not masked:
        return head + data
    mask = os.urandom(4)
    key = (mask * (len(data) // 4 + 1))[: len(data)]
    masked_data = (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(len(data), "big")
    return head + mask + masked_data


def serve(port):
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connection, _ = listener.accept()
        stream = connection.makefile("rwb")
        line, fields, raw = read_head(stream) if stream.peek(1) else (b"", {}, {})
        if not line:
            continue
        assert fields[b"upgrade"] == b"websocket" and b"upgrade" in fields[b"connection"], fields
        key = raw[b"sec-websocket-key"]
        stream.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept(key) + b"\r\n\r\n" + frame(TEXT, b"welcome", False)
        )
        stream.flush()
        while True:
            opcode, data = read_frame(stream)
            stream.write(frame(PONG if opcode == PING else opcode, data, False))
            stream.flush()
            if opcode == CLOSE:
                break
        stream.close()
        connection.close()


def call(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    stream = connection.makefile("rwb")
    key = base64.b64encode(os.urandom(16))
    stream.write(
        b"GET /chat HTTP/1.1\r\nHost: chat.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )
    stream.flush()
    line, fields, raw = read_head(stream)
    assert line.startswith(b"HTTP/1.1 101"), line
    assert fields[b"upgrade"] == b"websocket" and b"upgrade" in fields[b"connection"], fields
    assert raw[b"sec-websocket-accept"] == accept(key), raw
    assert read_frame(stream) == (TEXT, b"welcome")
    for opcode, size in [(TEXT, 0), (TEXT, 125), (TEXT, 126), (BINARY, 65535), (BINARY, 65536), (PING, 5), (BINARY, 1 << 20)]:
        data = b"a" * size if opcode == TEXT else os.urandom(size)
        stream.write(frame(opcode, data, True))
        stream.flush()
        answer = read_frame(stream)
        assert answer == (PONG if opcode == PING else opcode, data), (opcode, size)
    stream.write(frame(CLOSE, struct.pack(">H", 1000), True))
    stream.flush()
    assert read_frame(stream)[0] == CLOSE
    assert stream.read(1) == b""
    print("all echoed")


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](int(sys.argv[2]))
