"""One key pair for a lab, a host key for each host, and configurations that never prompt."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from mudanza.lab.cell import Cell

CONNECT_LIMIT = 10
"""Seconds an ssh connection may take to be made."""
MOST_STARTING_SESSIONS = 100
"""sshd's own default of 10 would drop some of many connections made at once."""

_CLIENT = f"""\
Host *
  User root
  IdentityFile /etc/ssh/lab_key
  IdentitiesOnly yes
  BatchMode yes
  StrictHostKeyChecking yes
  GlobalKnownHostsFile /etc/ssh/ssh_known_hosts
  UserKnownHostsFile /dev/null
  ConnectTimeout {CONNECT_LIMIT}
  # The default, which withstands quantum computers as well, takes five times as long to compute.
  KexAlgorithms curve25519-sha256
"""
_SERVER = f"""\
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PidFile /run/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PrintMotd no
Subsystem sftp internal-sftp
MaxStartups {MOST_STARTING_SESSIONS}
"""


class Keys:
    """The lab's ssh keys, in a directory: ``client``, and a pair named after each host."""

    def __init__(self, switch: Cell, directory: Path) -> None:
        self._switch = switch
        self.directory = directory

    def create(self, addresses: Mapping[str, str]) -> None:
        """Make the key everybody logs in with, one for each host, and the list of the hosts' keys."""
        self.directory.mkdir(mode=0o700)
        for name in ("client", *addresses):
            path = str(self.directory / name)
            self._switch.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"mudanza lab {name}", "-f", path])
        known = (f"{name},{address} {self._public(name)}" for name, address in addresses.items())
        (self.directory / "known_hosts").write_text("".join(known))

    def install_client(self, etc: Path) -> None:
        """Let whoever has this /etc log in to every host as root."""
        ssh = etc / "ssh"
        ssh.mkdir()
        (ssh / "ssh_config").write_text(_CLIENT)
        shutil.copy(self.directory / "client", ssh / "lab_key")
        shutil.copy(self.directory / "known_hosts", ssh / "ssh_known_hosts")

    def install_server(self, etc: Path, host: str, address: str) -> None:
        """Let root log in to the host that has this /etc, at this address, with the lab's key."""
        ssh = etc / "ssh"
        (ssh / "sshd_config").write_text(f"ListenAddress {address}\n{_SERVER}")
        (ssh / "authorized_keys").write_text(self._public("client"))
        shutil.copy(self.directory / host, ssh / "host_key")
        # sshd without PAM turns away an account whose password is locked, as root's often is.
        (etc / "shadow").write_text("root:*:20000:0:99999:7:::\n")

    def _public(self, name: str) -> str:
        return (self.directory / f"{name}.pub").read_text()
