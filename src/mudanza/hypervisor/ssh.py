"""A shell at a host, for what libvirt cannot be asked, where the controller logs in by ssh anyway."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.connection import KEEPALIVE_COUNT, KEEPALIVE_INTERVAL
from mudanza.hypervisor.uris import transport
from mudanza.model.errors import HostUnreachableError, HypervisorError

SSH_TIMEOUT = 5
"""Seconds that reaching a host's sshd may take."""
END_TIMEOUT = 2.0
"""Seconds that ssh may take to end once it is told to."""
MOST_SAID = 500
"""Characters of what ssh printed that an error repeats."""
MOST_BYTES = 64 * 1024
"""Bytes of it that are looked at."""
SAID_LIMIT = 1.0
"""Seconds until what a failed script has printed as an error must be here: it comes another way than its answers."""
SAID_AGAIN = 0.02
"""Seconds between two looks for it."""
SSH_FAILED = 255
"""Exit code of ssh itself; any other is the remote shell's."""
_MARK = b"@ "

# The scripts come in by the connection's input: where it ends the connection has ended, and so does all that was
# started here. Of two shells the outer one sees to that, for the inner one may be busy.
_SERVE = "exec sh -c '{ cat; kill 0; } | { sh -s; kill 0; }'"
_PREAMBLE = """\
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin; export LC_ALL PATH
"""
_BEGIN = "(\n"
_END = """
) </dev/null
echo "@ end $?"
"""


def ssh_command(uri: str) -> tuple[str, ...] | None:
    """Return the command by which the controller logs in where a libvirt URI leads; None where that is not by ssh.

    It asks nothing of anybody, trusts no host that ssh would not, and uses the URI's user, port, key and program.
    """
    way, parts = transport(uri), urlsplit(uri)
    place = parts.netloc.rpartition("@")[2]
    # Not parts.hostname, which is in lower case and might not be found in ssh's configuration then.
    host = place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]
    if way not in ("ssh", "libssh", "libssh2") or not host:
        return None
    said = _parameters(parts.query)
    command = [said.get("command", "ssh") if way == "ssh" else "ssh", "-T", "-a", "-x", "-e", "none"]
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(SSH_TIMEOUT),
        "ServerAliveInterval": str(KEEPALIVE_INTERVAL),
        "ServerAliveCountMax": str(KEEPALIVE_COUNT),
        "ClearAllForwardings": "yes",
        "ControlPath": "none",
    }
    if said.get("no_verify", "0") != "0" or said.get("known_hosts_verify") == "ignore":
        options["StrictHostKeyChecking"] = "no"
    if way != "ssh" and "known_hosts" in said:
        # In quotes, for ssh takes a list there.
        options["UserKnownHostsFile"] = f'"{said["known_hosts"]}"'
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    if "keyfile" in said:
        command += ["-i", said["keyfile"]]
    if parts.port is not None:
        command += ["-p", str(parts.port)]
    if parts.username:
        command += ["-l", unquote(parts.username)]
    return (*command, "--", host)


def _parameters(query: str) -> dict[str, str]:
    """Read a URI's query as libvirt does, to which a plus is a plus."""
    pairs = (pair.partition("=") for pair in query.replace(";", "&").split("&"))
    return {unquote(name): unquote(value) for name, _, value in pairs}


class RemoteShell:
    """A shell on a host that runs one script after the other until it is closed; nothing of it goes on there then.

    What a script is to answer it prints in lines that begin with ``@``; a host's start-up files may print others.
    """

    def __init__(self, host: str, command: tuple[str, ...]) -> None:
        """Raises HostUnreachableError where the program cannot be started."""
        self._host = host
        self._command = command
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._said_before = 0
        self._preamble = _PREAMBLE
        try:
            # A session of its own keeps the terminal's Ctrl-C from it.
            self._process = subprocess.Popen(
                [*command, _SERVE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,
            )
        except OSError as error:
            self._said.close()
            raise HostUnreachableError(host, f"ssh cannot be started: {error}") from error

    def close(self) -> None:
        """End the connection."""
        self.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.wait(END_TIMEOUT)
        with suppress(BrokenPipeError):  # it ended before it had read everything
            self._process.stdin.close()
        self._process.stdout.close()
        self._said.close()

    def kill(self) -> None:
        """End the connection, without waiting; to be called from any thread."""
        self._process.kill()

    @property
    def ended(self) -> bool:
        """Whether the connection has ended."""
        return self._process.poll() is not None

    def run(self, script: str) -> Iterator[list[str]]:
        """Yield the words of each answer until the script is through. Only then can the next one be run.

        Raises HostUnreachableError when the connection fails, HypervisorError when the script does.
        """
        assert self._process.stdout is not None
        self._said_before = os.fstat(self._said.fileno()).st_size
        text, self._preamble = self._preamble + _BEGIN + script + _END, ""
        self._writing = Task(lambda: self._write(text.encode()))
        for line in self._process.stdout:
            if not line.startswith(_MARK):
                continue
            match line[len(_MARK) :].decode(errors="replace").split():
                case ["end", "0"]:
                    return
                case ["end", code]:
                    raise self._failed(code)
                case words:
                    yield words
        raise self._broken(self._process.wait(END_TIMEOUT))

    def said(self) -> str:
        """Return the last of what was printed as errors since the script began, here and there, in one line."""
        said = os.pread(self._said.fileno(), MOST_BYTES, self._said_before)
        return " ".join(said.decode(errors="replace").split())[-MOST_SAID:]

    def _failed(self, code: object) -> HypervisorError:
        until = clock.monotonic() + SAID_LIMIT
        while not self.said() and clock.monotonic() < until:
            clock.sleep(SAID_AGAIN)
        said = self.said() or "it said nothing"
        return HypervisorError(self._host, f"a command run by ssh ended with exit code {code}: {said}")

    def _broken(self, code: int) -> HostUnreachableError | HypervisorError:
        if code not in (SSH_FAILED, -9):
            return self._failed(code)
        said = self.said() or "it said nothing"
        return HostUnreachableError(self._host, f"the ssh connection failed: {said}", remedy=self._by_hand())

    def _by_hand(self) -> str:
        return f"try it by hand: {shlex.join(self._command)} true"

    def _write(self, text: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return  # it has ended; whoever reads its answers is told why
