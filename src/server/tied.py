"""Run a program that dies with its parent: `python -IS tied.py PARENT_PID PROGRAM [ARGUMENT…]`.

Envoy has no way of its own to notice that its supervisor is gone, and would hold its port for ever. What is set here
outlasts exec, so that afterwards there is only the program, under the same pid. The parent is a *thread* to the kernel:
whoever starts this must do so from a thread that lives as long as the program shall, the main one. Linux only.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, program = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before it could be watched
        sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 - running what it is given is what it is for
