#!/usr/bin/python3
"""Run inside the unit's sandbox by test_systemd: tries what the daemon must not be able to do, and
prints what came of each as JSON."""
import json
import mmap
import os
import socket
import subprocess
import sys

READABLE = mmap.PROT_READ | mmap.PROT_WRITE


def outcome(attempt):
    try:
        found = attempt()
    except OSError as error:
        return f"refused: {error.strerror}"
    return "done" if found is None else found


def write(path):
    with open(path, "w") as file:
        file.write("x")


def read(path):
    with open(path) as file:
        file.read()


def status_of(*words):
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return "done" if done.returncode == 0 else "refused: " + done.stderr.strip()


ATTEMPTS = {
    "read /home": lambda: read("/home/secret"),
    "read /root": lambda: read("/root/secret"),
    "read the credential's source": lambda: read("/etc/credstore/convstored.database_password"),
    "write /etc": lambda: write("/etc/convstore/x"),
    "write /usr": lambda: write("/usr/local/x"),
    "write /var": lambda: write("/var/open/x"),
    "write /opt": lambda: write("/opt/open/x"),
    "become root": lambda: os.setuid(0),
    "make a file setuid": lambda: os.chmod(sys.argv[1], 0o4755),
    "map memory to write and execute": lambda: mmap.mmap(-1, 4096, prot=READABLE | mmap.PROT_EXEC).close(),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "new user namespace": lambda: status_of("unshare", "--user", "true"),
    "mount": lambda: status_of("mount", "-t", "tmpfs", "none", "/tmp"),
    "see process 1": lambda: read("/proc/1/cmdline"),
    "a real-time priority": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
}
ALLOWED = {
    "write the state directory": lambda: write("/var/lib/convstore/x"),
    "write its own /tmp": lambda: write("/tmp/x"),
    "Internet socket": lambda: socket.socket(socket.AF_INET).close(),
}

if __name__ == "__main__":
    write(sys.argv[1])
    print(json.dumps({
        "refused": {name: outcome(attempt) for name, attempt in ATTEMPTS.items()},
        "allowed": {name: outcome(attempt) for name, attempt in ALLOWED.items()},
        # A setuid program, and whose rights it has.
        "setuid": subprocess.run(["/opt/open/id", "-u"], capture_output=True, text=True, check=False).stdout.strip(),
        "user": os.getuid(),
        "environment": dict(os.environ),
    }))
