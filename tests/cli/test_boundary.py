"""Exit codes and messages, and Ctrl-C whatever a library makes of it."""

import errno
import os
import signal

import pytest
import torch
from safetensors.torch import save_file

from openrlhf_agentprm.cli.boundary import run_command
from openrlhf_agentprm.core.errors import UserError


def left(command, capsys, *arguments):
    """(exit code, standard error)."""
    with pytest.raises(SystemExit) as leaving:
        run_command(command, list(arguments))
    return leaving.value.code, capsys.readouterr().err


def raises(error):
    def command(arguments):
        raise error

    return command


def test_exit_codes(capsys):
    assert left(lambda arguments: None, capsys) == (0, "")
    assert left(raises(UserError(["one", "two"])), capsys) == (2, "error: one\nerror: two\n")
    assert left(raises(OSError(errno.ENOSPC, "No space left on device")), capsys)[0] == 2
    assert left(raises(OSError(errno.EIO, "broken")), capsys)[0] == 1
    code, told = left(raises(ZeroDivisionError("by 0")), capsys)
    assert code == 1 and told == "error: ZeroDivisionError: by 0\n(--debug shows where)\n"
    code, told = left(raises(ZeroDivisionError("by 0")), capsys, "--debug")
    assert code == 1 and "Traceback" in told


@pytest.mark.parametrize(
    "save", [torch.save, save_file, lambda weights, path: path.write_bytes(bytes(10**6))], ids=["torch", "safetensors", "bytes"]
)
def test_a_full_disk_is_told_as_such_whoever_writes(small_disk, capsys, save):
    code, told = left(lambda arguments: save({"weight": torch.zeros(10**6)}, small_disk / "weights"), capsys)
    assert code == 2 and told.startswith(
        "error: the disk is full: make room, then run the same command again; what was finished is kept\n("
    )
    code, told = left(raises(RuntimeError("remote worker: SafetensorError: No space left on device (os error 28)")), capsys)
    assert code == 2 and "the disk is full" in told
    code, told = left(lambda arguments: torch.load(__file__), capsys)
    assert code == 1 and "full" not in told


@pytest.mark.parametrize("becomes", [None, RuntimeError, OSError, UserError, SystemExit])
def test_ctrl_c_is_an_interrupt_whatever_a_library_makes_of_it(capsys, becomes):
    def command(arguments):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(10**8):
                pass
        except KeyboardInterrupt:
            if becomes:
                raise becomes("the engine failed") from None
            raise

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, told = left(command, capsys)
        assert code == 130 and told == "interrupted; what was finished is kept, and the same command goes on from there\n"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_ignores_ctrl_c_goes_on_ignoring_it(capsys):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert left(lambda arguments: os.kill(os.getpid(), signal.SIGINT), capsys) == (0, "")
    finally:
        signal.signal(signal.SIGINT, before)
