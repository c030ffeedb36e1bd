"""A server that speaks first, as SMTP's do, and its client.

    greeter.py serve PORT     greets, then answers HELO, DATA and QUIT
    greeter.py send HOST PORT talks to it with Python's own SMTP client and prints what the server took
"""

import smtplib
import socket
import socketserver
import sys


class Session(socketserver.StreamRequestHandler):
    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self):
        peer = self.client_address[0]
        self.say("220 mail ESMTP speaks first")
        for line in self.rfile:
            verb = line.split()[0].upper() if line.split() else b""
            if verb == b"DATA":
                self.say("354 go on")
                for text in self.rfile:
                    if text == b".\r\n":
                        break
                self.say(f"250 taken from {peer}")
            elif verb == b"QUIT":
                return self.say("221 bye")
            else:
                self.say("250 fine")


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


def send(host, port):
    with smtplib.SMTP(host, port, local_hostname="client", timeout=30) as client:
        client.mail("one@client")
        client.rcpt("two@mail")
        print(client.data("Subject: hello\r\n\r\nhello")[1].decode())


if sys.argv[1] == "serve":
    Server(("::", int(sys.argv[2])), Session).serve_forever()
else:
    send(sys.argv[2], int(sys.argv[3]))
