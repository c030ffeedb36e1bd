"""Tries to get around the proxy, from inside, and says in JSON what came of each attempt.

    escape.py TARGETS

TARGETS is JSON: addresses of the host, ports of programs there, what another workload has. The names of the attempts
are those of the rows in docs/isolation.md. An attempt's outcome is "refused" or "reached", with how it showed; what
reaches nobody counts as refused.
"""

import ctypes
import errno
import json
import os
import socket
import struct
import subprocess
import sys
import threading

PATIENCE = 5
GET = b"GET /escape HTTP/1.1\r\nHost: escape\r\nConnection: close\r\n\r\n"
LIBC = ctypes.CDLL(None, use_errno=True)
ATTEMPTS = {}


def attempt(name):
    def register(function):
        ATTEMPTS[name] = function
        return function

    return register


class Refused(Exception):
    pass


def tcp(address, port, family=None, protocol=0):
    """Connects, asks, and gives the first line of what is answered."""
    family = family or (socket.AF_INET6 if ":" in address else socket.AF_INET)
    with socket.socket(family, socket.SOCK_STREAM, protocol) as s:
        s.settimeout(PATIENCE)
        s.connect(socket.getaddrinfo(address, port, family, socket.SOCK_STREAM)[0][4])
        s.sendall(GET)
        answer = s.recv(4096)
    if not answer:
        closed()
    return answer.split(b"\r\n")[0].decode(errors="replace")


def udp(address, port, data=b"escape"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        s.connect(socket.getaddrinfo(address, port, family, socket.SOCK_DGRAM)[0][4])
        s.send(data)
        return repr(s.recv(4096))


def all_refused(calls):
    """Each of the calls must be refused; gives the first that is not."""
    whys = []
    for name, call in calls:
        try:
            return f"{name}: {call()}"
        except (OSError, Refused) as error:
            whys.append(f"{name}: {error}")
    raise Refused("; ".join(whys))


def each(addresses, port):
    return all_refused([(f"{a}:{port}", lambda a=a: tcp(a, port)) for a in addresses])


def descriptors():
    """Beyond 0 to 2, and beyond the folder that lists them."""
    extra = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            extra[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass
    return {fd: to for fd, to in extra.items() if int(fd) > 2}


# Before anything here opens one.
EXTRA = descriptors()


def closed():
    raise Refused("closed without an answer")


def syscall(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def command(*words):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    if done.returncode != 0:
        raise Refused((done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:])
    return done.stdout.decode(errors="replace").strip()


@attempt("a program on the host, by the host's own address")
def _(t):
    return each(t["host"], t["program"])


@attempt("a program on the host, by an IPv4 address written as IPv6")
def _(t):
    return each([f"::ffff:{a}" for a in t["host"] if ":" not in a], t["program"])


@attempt("the host's loopback")
def _(t):
    return each(["127.0.0.1", "127.0.0.53", "127.1.2.3", "::1", "::ffff:127.0.0.1"], t["program"])


@attempt("the unspecified address")
def _(t):
    return each(["0.0.0.0", "::"], t["program"])


@attempt("link-local addresses, the cloud's metadata service among them")
def _(t):
    return each(["169.254.169.254", "fe80::1%lo", "fe80::1"], 80)


@attempt("multicast and broadcast")
def _(t):
    return each(["224.0.0.1", "255.255.255.255", "ff02::1"], 80)


@attempt("another workload's inbound port, at the host's address")
def _(t):
    return all_refused([(f"{a}:{p}", lambda a=a, p=p: tcp(a, p)) for p in t["inbound"] for a in t["host"]])


@attempt("another workload's inbound port, at the loopback address")
def _(t):
    return all_refused([(f"{a}:{p}", lambda a=a, p=p: tcp(a, p)) for p in t["inbound"] for a in ("127.0.0.1", "::1")])


@attempt("the own sidecar's inbound, admin and metrics ports")
def _(t):
    addresses = ["127.0.0.1", "::1", *t["host"]]
    return all_refused([(f"{a}:{p}", lambda a=a, p=p: tcp(a, p)) for p in t["own"] for a in addresses])


@attempt("the own sidecar's outbound port, directly")
def _(t):
    return each(["127.0.0.1", "::1"], 15001)


@attempt("the control plane")
def _(t):
    addresses = ["127.0.0.1", *t["host"]]
    return all_refused([(f"{a}:{p}", lambda a=a, p=p: tcp(a, p)) for p in t["control_plane"] for a in addresses])


@attempt("another workload's virtual address")
def _(t):
    return tcp(t["service"], t["service_port"])


@attempt("a DNS server elsewhere")
def _(t):
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    query += b"".join(bytes([len(p)]) + p.encode() for p in t["service"].split(".")) + b"\x00\x00\x01\x00\x01"
    return udp("192.0.2.53", 53, query)


@attempt("UDP to the host")
def _(t):
    return all_refused([(a, lambda a=a: udp(a, t["udp"])) for a in ["127.0.0.1", *t["host"]]])


@attempt("UDP to anywhere else, QUIC and NTP among it")
def _(t):
    return all_refused([(f"{a}:{p}", lambda a=a, p=p: udp(a, p)) for a in ("192.0.2.1", "2001:db8::1") for p in (443, 123)])


@attempt("ping")
def _(t):
    return all_refused([(a, lambda a=a: command("ping", "-c", "1", "-W", "5", a)) for a in ("192.0.2.1", *t["host"][:1])])


@attempt("raw sockets")
def _(t):
    raw = [(socket.AF_INET, p) for p in (socket.IPPROTO_RAW, socket.IPPROTO_TCP, socket.IPPROTO_ICMP)]
    raw += [(socket.AF_INET6, socket.IPPROTO_ICMPV6)]
    return all_refused([(f"{f}", lambda f=f, p=p: socket.socket(f, socket.SOCK_RAW, p)) for f, p in raw])


@attempt("packet sockets")
def _(t):
    kinds = (socket.SOCK_RAW, socket.SOCK_DGRAM)
    return all_refused([(str(k), lambda k=k: socket.socket(socket.AF_PACKET, k, 0x0300)) for k in kinds])


@attempt("SCTP, UDP-Lite, DCCP")
def _(t):
    def other(kind, protocol):
        with socket.socket(socket.AF_INET, kind, protocol) as s:
            s.settimeout(PATIENCE)
            s.connect((t["host"][0], t["program"]))
            s.send(b"escape")
            return repr(s.recv(10))

    protocols = [(socket.SOCK_STREAM, 132), (socket.SOCK_DGRAM, 136), (6, 33)]
    return all_refused([(str(p), lambda k=k, p=p: other(k, p)) for k, p in protocols])


@attempt("MPTCP to the host")
def _(t):
    return all_refused([(a, lambda a=a: tcp(a, t["program"], protocol=262)) for a in t["host"]])


@attempt("TCP with a mark, or bound to a device")
def _(t):
    def with_option(option, value):
        with socket.socket() as s:
            s.settimeout(PATIENCE)
            s.setsockopt(socket.SOL_SOCKET, option, value)
            s.connect((t["host"][0], t["program"]))
            s.sendall(GET)
            return s.recv(10).decode() or closed()

    return all_refused([
        ("mark", lambda: with_option(socket.SO_MARK, 1)),
        ("device", lambda: with_option(socket.SO_BINDTODEVICE, b"lo\0")),
    ])


@attempt("TCP from the address that the sidecar connects from")
def _(t):
    def bound(source):
        with socket.socket() as s:
            s.settimeout(PATIENCE)
            s.bind((source, 0))
            s.connect((t["host"][0], t["program"]))
            s.sendall(GET)
            return s.recv(10).decode() or closed()

    return all_refused([(s, lambda s=s: bound(s)) for s in ("127.0.0.1", "198.18.0.1", "198.18.0.2")])


@attempt("abstract Unix sockets of the host")
def _(t):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\0" + t["abstract"])
        return repr(s.recv(10))


@attempt("Unix sockets by path")
def _(t):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(t["path"])
        return repr(s.recv(10))


@attempt("AF_VSOCK")
def _(t):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as s:
        s.settimeout(PATIENCE)
        s.connect((2, 1024))
        return "connected"


@attempt("/proc of others")
def _(t):
    def look(pid, name):
        return open(f"/proc/{pid}/{name}", "rb").read(10)

    inside = {int(n) for n in os.listdir("/proc") if n.isdigit()}
    if len(inside) > t["processes"]:
        return f"{len(inside)} processes are seen"
    outside = [p for p in t["pids"] if p not in inside]
    calls = [(f"{p}/environ", lambda p=p: look(p, "environ")) for p in outside]
    calls += [(f"1/{n}", lambda n=n: look(1, n)) for n in ("environ", "mem", "root/etc/hostname")]
    calls += [("1/fd", lambda: os.listdir("/proc/1/fd")), ("1/ns", lambda: os.readlink("/proc/1/ns/net"))]
    return all_refused(calls)


@attempt("ptrace of what is outside the program")
def _(t):
    attach, seize = 16, 0x4206
    calls = [(f"{r} {p}", lambda r=r, p=p: syscall(LIBC.ptrace(r, p, None, None))) for r in (attach, seize)
             for p in (1, *t["pids"])]
    return all_refused(calls)


@attempt("signals to what is outside the program")
def _(t):
    inside = {int(n) for n in os.listdir("/proc") if n.isdigit()}
    calls = [(str(p), lambda p=p: os.kill(p, 0)) for p in t["pids"] if p not in inside]
    os.kill(1, 9)
    return all_refused(calls)


@attempt("descriptors that are left open")
def _(t):
    if EXTRA:
        return str(EXTRA)
    raise Refused("none")


@attempt("capabilities and set-user-ID programs")
def _(t):
    lines = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
    held = {n: lines[n] for n in ("CapPrm", "CapEff", "CapInh", "CapAmb") if int(lines[n], 16)}
    if held or lines["NoNewPrivs"] != "1":
        return f"{held} NoNewPrivs {lines['NoNewPrivs']}"
    return all_refused([("su", lambda: command("su", "-c", "true")), ("setuid", lambda: os.setuid(1 if os.getuid() != 1 else 2))])


@attempt("the rules, routes and addresses of the own namespace")
def _(t):
    return all_refused([
        ("nft", lambda: command("/usr/sbin/nft", "flush", "ruleset")),
        ("link", lambda: command("/usr/sbin/ip", "link", "set", "lo", "down")),
        ("route", lambda: command("/usr/sbin/ip", "route", "flush", "table", "main")),
        ("address", lambda: command("/usr/sbin/ip", "address", "add", "10.9.9.9/32", "dev", "lo")),
    ])


@attempt("the rules again, from a nested user namespace")
def _(t):
    nested = ("unshare", "--user", "--map-root-user")
    return all_refused([
        ("nft", lambda: command(*nested, "/usr/sbin/nft", "flush", "ruleset")),
        ("raw", lambda: command(*nested, "/usr/bin/python3", "-c", "import socket; socket.socket(2, 3, 255)")),
    ])


@attempt("a nested network namespace")
def _(t):
    script = f"""import socket
s = socket.create_connection(({t["host"][0]!r}, {t["program"]}), {PATIENCE})"""
    up = "/usr/sbin/ip link set lo up; exec /usr/bin/python3 -c \"$0\""
    return command("unshare", "--user", "--map-root-user", "--net", "sh", "-c", up, script)


@attempt("a nested mount namespace without our files")
def _(t):
    script = "umount -l /etc/resolv.conf; umount -l /etc/nsswitch.conf; umount -l /proc; ls /proc"
    seen = command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f"({script}) 2>/dev/null; exec /usr/bin/python3 -c '{REACH}' {t['host'][0]} {t['program']}")
    return seen


REACH = """import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
sys.exit(0 if s.recv(9) else "closed without an answer")"""


@attempt("nsenter into the host's namespaces")
def _(t):
    calls = [(str(p), lambda p=p: command("nsenter", "--target", str(p), "--net", "true")) for p in (1, *t["pids"][:2])]
    calls.append(("all", lambda: command("nsenter", "--target", "1", "--all", "true")))
    return all_refused(calls)


@attempt("the sidecar's sources of sockets, by guessing")
def _(t):
    names = [line.split()[-1] for line in open("/proc/net/unix") if "@" in line]
    if names:
        return str(names)
    raise Refused("there is no abstract name in this namespace")


@attempt("the keys of the workload and of the mesh")
def _(t):
    return all_refused([(f, lambda f=f: open(f, "rb").read(10)) for f in t["keys"]])


def run(function, targets):
    try:
        return ["reached", str(function(targets))]
    except (OSError, Refused) as error:
        return ["refused", str(error)]
    except subprocess.TimeoutExpired as error:
        return ["refused", f"no answer: {error}"]


def main():
    targets = json.loads(sys.argv[1])
    results = {}
    threads = [threading.Thread(target=lambda n=n, f=f: results.__setitem__(n, run(f, targets))) for n, f in ATTEMPTS.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({name: results.get(name, ["crashed", "see standard error"]) for name in ATTEMPTS}, indent=1))


if __name__ == "__main__":
    main()
