"""Runs a program in a pseudo-terminal and plays a user who types into it.

    terminal.py STEPS WORD...

STEPS is a JSON list of ["type", TEXT], ["expect", PATTERN], ["size", ROWS, COLUMNS] and ["running", WORD...]. A pattern is looked for in
what came since the last one matched. Prints as JSON how the program ended and all that the terminal showed.
"""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

DEADLINE = 60


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


class Terminal:
    def __init__(self, words):
        self.seen, self.at = "", 0
        self.child, self.fd = pty.fork()
        if self.child == 0:
            os.execvp(words[0], words)

    def read(self, seconds):
        """Takes what comes within some time; False at the end."""
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b""
        self.seen += data.decode(errors="replace")
        return data != b""

    def type(self, text):
        os.write(self.fd, text.encode())

    def size(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect(self, pattern):
        end = time.monotonic() + DEADLINE
        while (found := re.compile(pattern).search(self.seen, self.at)) is None:
            if time.monotonic() > end or not self.read(0.2):
                self.fail(f"{pattern!r} was not seen")
        self.at = found.end()

    def running(self, *words):
        """Waits until a process with this command line is there; programs start only when their proxy is ready."""
        wanted = "\0".join(words).encode() + b"\0"
        end = time.monotonic() + DEADLINE
        while wanted not in {read(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdigit()}:
            if time.monotonic() > end or not self.read(0.1):
                self.fail(f"{words!r} does not run")

    def ended(self):
        end = time.monotonic() + DEADLINE
        while self.read(0.2):
            if time.monotonic() > end:
                self.fail("it did not end")
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])

    def fail(self, why):
        os.kill(self.child, signal.SIGKILL)
        print(json.dumps({"failed": why, "seen": self.seen}))
        sys.exit(1)


terminal = Terminal(sys.argv[2:])
for step, *arguments in json.loads(sys.argv[1]):
    getattr(terminal, step)(*arguments)
print(json.dumps({"code": terminal.ended(), "seen": terminal.seen}))
