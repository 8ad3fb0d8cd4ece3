"""Command line of the package: ``python -m dbs_device COMMAND ...``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from ._cli.generate import add_generate
from ._cli.machine import add_map
from ._cli.output import CommandError
from ._cli.traces import add_trace

_DESCRIPTION = """\
Look at the address map of a machine and at recorded traces, and generate
register banks.

  map MODULE             the devices of the machine that MODULE.build() returns
  trace summary FILE     how often each device was accessed
  trace plot FILE        a picture: time across, address ranges down
  trace diff A B         the differences of two traces, by device and register
  trace export FILE      for Perfetto (Chrome's trace format) or GTKWave (VCD)
  generate svd|rdl FILE  a module of register banks, from a hardware description

Traces are recorded by dbs_device.trace.TraceRecorder, or by a bridge:

  recorder = TraceRecorder(manager)
  bridge = dbs_device.unicorn.attach(uc, manager, recorder)
  ...
  recorder.trace.save("boot.npz")
"""
_EPILOG = """\
The exit status is 0, or 1 where two traces differ, or 2 for what cannot be
done, with a line on standard error.

python -m dbs_device COMMAND --help says more. Tables on terminals, pictures
and VCD files need packages: pip install 'dbs-device[cli]'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Of the command line; those of the process by default.

    Returns
    -------
    int
        The exit status: 1 where a comparison finds differences, 2 for what the command cannot do, after a line on
        standard error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dbs_device",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_map(commands)
    add_trace(commands)
    add_generate(commands)
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int | None] = options.run
    try:
        status = run(options) or 0
        sys.stdout.flush()
        return status
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
