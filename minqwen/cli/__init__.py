"""The `minqwen` command: what must be set up before anything else is imported."""

import os
import signal
import sys


def main():
    """Run one command, from sys.argv; returns the exit code (see commands.py).

    Ctrl-C and SIGTERM end it at any moment with 130 and 143, printing one line at most.
    A signal that was ignored at the start, as in a shell's background, stays ignored.
    """
    fill_streams()
    leave_cores()
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: stop}
    heard = [n for n in wanted if signal.getsignal(n) != signal.SIG_IGN]
    try:
        for number in heard:  # an import might catch an exception, or keep half of it
            signal.signal(number, end_at_once)
        run = entry()
        for number in heard:
            signal.signal(number, wanted[number])
        return run()
    except KeyboardInterrupt:
        return 130
    finally:
        for number in heard:  # from here on end silently: there is nothing to undo
            signal.signal(number, signal.SIG_DFL)


def entry():
    """The commands, or what reports in one line that a library is missing or broken."""
    try:
        from .commands import main
    except (ImportError, OSError) as error:
        from ..plan import doctor
        from ..terminal import complain

        if sys.argv[1:] == ["doctor"]:
            return doctor.main
        what = f"{error}; `minqwen doctor` says what is missing and what mends it"
        return lambda: complain(what) or 1
    return main


def stop(*_):
    """On SIGTERM: half-written files are removed, as on Ctrl-C."""
    from ..terminal import complain

    complain("stopped by SIGTERM")
    sys.exit(143)


def end_at_once(number, _):
    os.write(2, b"\n")
    os._exit(128 + number)


def leave_cores():
    """With experts on disk, threads without work sleep instead of spinning."""
    # Else they take cores from those that read. OpenMP asks once, when torch loads it.
    if {"disk", "--experts=disk"} & {*sys.argv}:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def fill_streams():
    """Open closed streams: else the next opened file would take their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))
