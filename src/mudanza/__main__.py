"""The program ``mudanza``; also ``python -m mudanza``."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
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
    end = _End()
    atexit.register(end.come)  # the first one registered is the last one to be called
    try:
        run()
    except SystemExit as leaving:
        end.code = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
        raise


class _End:
    """The end of the program, which no call waits for that is stuck in libvirt.

    While Python and libvirt are taken down, a thread that comes back from such a call finds neither: now and then the
    program crashed after it had said and done everything (SIGSEGV, seen with a host that was off).
    """

    def __init__(self) -> None:
        self.code = 1  # of what nobody caught

    def come(self) -> None:
        if threading.active_count() == 1:
            return
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # nobody reads it any more, or it is closed
                self.code = self.code or 1
        os._exit(self.code)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    # Not by an exception: within half an import it may be lost, or become another one.
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
