"""A fence agent of a lab, with the interface of Debian's ``fence-agents``: it kills a host, and says whether it lives.

Unlike real ones it can be told to lie, to hang or to fail, for the tests. It is found in the lab's directory ``fence``
as ``fence_lab``.
"""

from __future__ import annotations

import shlex
import sys
import time
from enum import StrEnum
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

from mudanza.lab import layout
from mudanza.lab.lab import Lab

NAME = "fence_lab"
DIRECTORY = "fence"
HANGS = 3600.0
"""Seconds for which one that hangs does so."""
ON, OFF, UNKNOWN = 0, 2, 1
"""Exit codes of ``status``."""

_METADATA = f"""<?xml version="1.0" ?>
<resource-agent name="{NAME}" shortdesc="Fence agent of a lab">
<parameters>
  <parameter name="action" required="1"><content type="string" default="reboot"/></parameter>
  <parameter name="lab" required="1"><content type="string"/></parameter>
  <parameter name="plug" required="1"><content type="string"/></parameter>
  <parameter name="password"><content type="string"/></parameter>
</parameters>
<actions>
  <action name="on"/><action name="off"/><action name="reboot"/><action name="status"/><action name="metadata"/>
  <action name="identify"/>
</actions>
</resource-agent>
"""


class Mood(StrEnum):
    """How an agent treats those who ask it."""

    HONEST = "honest"
    LYING = "lying"
    """It says that it has switched off, and that it is off, and has done nothing."""
    IDLE = "idle"
    """It says that it has switched off, has done nothing, and tells the truth when it is asked."""
    STRANGE = "strange"
    """It tells of another machine than its host."""
    DUMB = "dumb"
    """It does not tell which machine it switches."""
    HANGING = "hanging"
    FAILING = "failing"


def install(lab: Lab) -> Path:
    """Put the agent into the lab's directory; return the directory that it is in."""
    directory = lab.directory / DIRECTORY
    directory.mkdir(exist_ok=True)
    path = directory / NAME
    words = f"{shlex.quote(sys.executable)} -m {__name__}"
    path.write_text(f'#!/bin/sh\n{layout.PARENT_VARIABLE}={shlex.quote(str(lab.directory.parent))} exec {words} "$@"\n')
    path.chmod(0o755)
    return directory


def fence_mood(lab: Lab, host: str, mood: str) -> None:
    """Have a host's fence agent be honest, lying, idle, strange, dumb, hanging or failing from now on."""
    _mood_file(install(lab), host).write_text(Mood(mood))


def main() -> int:
    """Do what is ordered; return the exit code."""
    if "metadata" in sys.argv:
        sys.stdout.write(_METADATA)
        return 0
    options = dict(line.strip().partition("=")[::2] for line in sys.stdin if "=" in line)
    if options.get("action") == "metadata":
        sys.stdout.write(_METADATA)
        return 0
    lab, host = Lab.open(options["lab"]), options["plug"]
    return _obey(lab, host, options.get("action", "reboot"), _mood(lab, host))


def _obey(lab: Lab, host: str, action: str, mood: Mood) -> int:
    if mood is Mood.HANGING:
        time.sleep(HANGS)
    if mood is Mood.FAILING:
        sys.stderr.write("Failed: Unable to connect/login to fencing device\n")
        return UNKNOWN
    if action == "identify":
        return _identify(lab, host, mood)
    if action == "status":
        is_off = mood is Mood.LYING or not lab.cell(host).alive
        sys.stdout.write(f"Status: {'OFF' if is_off else 'ON'}\n")
        return OFF if is_off else ON
    able = mood in (Mood.HONEST, Mood.STRANGE, Mood.DUMB)
    if able and action in ("off", "reboot") and lab.cell(host).alive:
        lab.stop_host(host)
    if able and action in ("on", "reboot") and not lab.cell(host).alive:
        lab.boot_host(host)
    sys.stdout.write(f"Success: {action}\n")
    return 0


def _identify(lab: Lab, host: str, mood: Mood) -> int:
    """Tell which machine is switched, by the UUID that its libvirt goes by: the hosts of a lab share all else."""
    if mood is Mood.DUMB:
        sys.stderr.write("Failed: Unrecognised action 'identify'\n")
        return UNKNOWN
    uuid = str(uuid5(NAMESPACE_DNS, host)) if mood is Mood.STRANGE else lab.host_uuid(host)
    sys.stdout.write(f"uuid={uuid}\n")
    return 0


def _mood(lab: Lab, host: str) -> Mood:
    try:
        return Mood(_mood_file(lab.directory / DIRECTORY, host).read_text())
    except FileNotFoundError:
        return Mood.HONEST


def _mood_file(directory: Path, host: str) -> Path:
    return directory / f"{host}.mood"


if __name__ == "__main__":
    sys.exit(main())
