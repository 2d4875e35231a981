"""The program ``mudanza``; also ``python -m mudanza``."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

from mudanza.cli.exit_codes import INTERRUPTED


def main() -> NoReturn:
    """Load the command line and run it. Ctrl-C ends it silently while it is being loaded, when nothing was done yet."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a script's background job ignores it
        signal.signal(signal.SIGINT, _leave)
    from mudanza.cli.main import main as run

    signal.signal(signal.SIGINT, before)
    run()


def _leave(_signal: int, _frame: FrameType | None) -> None:
    # Not by an exception: within half an import it may be lost, or become another one.
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
