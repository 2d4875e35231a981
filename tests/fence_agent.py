"""A fence agent for tests of this machine alone: it writes down what it is told, and answers what it is to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

AGENT = "fence_test"

_SCRIPT = """#!/bin/sh
here={place}
if [ "$1" = -o ]; then
    echo "a warning before it"
    cat <<'END'
<?xml version="1.0" ?>
<resource-agent name="fence_test"><parameters>
<parameter name="action"/><parameter name="ip"/><parameter name="plug"/><parameter name="password"/>
<parameter name="password_script"/></parameters>
<actions><action name="off"/><action name="on"/><action name="status"/><action name="reboot"/>
END
    [ ! -e "$here/identify" ] || echo '<action name="identify"/>'
    echo "</actions></resource-agent>"
    exit 0
fi
echo "arguments: $*" >>"$here/told"
action=reboot plug= password=
while read -r line; do
    echo "$line" >>"$here/told"
    case $line in
        action=*) action=${{line#*=}} ;;
        plug=*) plug=${{line#*=}} ;;
        password=*) password=${{line#*=}} ;;
    esac
done
[ "$action" != identify ] || {{ cat "$here/identify"; exit 0; }}
[ ! -e "$here/says" ] || echo "it was told $password"
[ ! -e "$here/$plug.$action.hangs" ] || sleep 600
exit "$(cat "$here/$plug.$action" 2>/dev/null || echo 1)"
"""


@dataclass(frozen=True)
class FakeAgent:
    """The agent, in a directory of its own."""

    place: Path

    @classmethod
    def at(cls, place: Path) -> FakeAgent:
        """Make one there."""
        place.mkdir()
        path = place / AGENT
        path.write_text(_SCRIPT.format(place=place))
        path.chmod(0o755)
        return cls(place)

    def will(self, plug: str, *, off: int = 0, status: int = 2) -> None:
        """Have it exit with these codes for a plug."""
        (self.place / f"{plug}.off").write_text(str(off))
        (self.place / f"{plug}.status").write_text(str(status))

    def identify(self, *lines: str) -> None:
        """Have it tell so of the machine that it switches."""
        (self.place / "identify").write_text("".join(f"{line}\n" for line in lines))

    def hang(self, plug: str, action: str) -> None:
        """Have it not come back."""
        (self.place / f"{plug}.{action}.hangs").touch()

    @property
    def told(self) -> list[str]:
        """The lines that it got, and its arguments."""
        path = self.place / "told"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def actions(self) -> list[tuple[str, str]]:
        """What was ordered of which plug."""
        found: list[tuple[str, str]] = []
        action = ""
        for line in self.told:
            key, _, value = line.partition("=")
            if key == "action":
                action = value
            elif key == "plug":
                found.append((action, value))
        return found
