"""Run a program with a pipe to itself: `python -IS piped.py FD [NAME=VALUE…] -- PROGRAM [ARGUMENT…]`.

The pipe is read at descriptor FD and written to at the one after it, which another part of the same process may open by
its name, /dev/fd/N. The variables are added to the program's environment, and not to that of this interpreter.
"""

import contextlib
import fcntl
import os
import sys

ROOM_BYTES = 1024 * 1024
"""What may be written that nobody has read yet: whoever writes more waits, and a process that ends reads no more."""

if __name__ == "__main__":
    cut = sys.argv.index("--")
    at, variables, program = int(sys.argv[1]), sys.argv[2:cut], sys.argv[cut + 1 :]
    ends = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, ROOM_BYTES)
    for number, end in enumerate(ends):
        os.dup2(end, at + number)
        os.close(end)
    for variable in variables:
        name, _, value = variable.partition("=")
        os.environ[name] = value
    os.execv(program[0], program)  # noqa: S606 - running what it is given is what it is for
