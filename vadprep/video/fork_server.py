"""Child processes that cost a fork, where a new interpreter and its imports cost 0.2 s each.

    parent --- requests: what to run, and file descriptors ----> server --- fork ---> child
           <-- the number of the child, in the end its exit code ---

A server has imported numpy and the decoders, holds no video, and has one child at a time. A child
shares no memory that it writes with the server or with another child. A server is started when all
others are in use; it ends when its parent does, or after ``IDLE_SECONDS`` without work.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress

from vadprep.core.child import child_environment, start_program
from vadprep.video.decoder_process import die_with_parent
from vadprep.video.decoders.decord import import_decord

IDLE_SECONDS = 60.0
MOST_BYTES, MOST_FDS = 1 << 16, 8
"""Of a request."""

GONE = b"gone"
"""Sent by the parent when it needs the number of a child no more; the server repeats it."""

_idle: list[_Server] = []
_lock = threading.Lock()


def start_child(
    program: Sequence[str], stderr_fd: int, fds: Sequence[int], seconds: float
) -> Child:
    """A child that runs ``main`` of the module ``program[0]`` with the rest and ``fds`` as texts.

    It gets duplicates of ``fds``, ``stderr_fd`` as its error stream, and the environment of this
    process. Raises ChildProcessError, with the exit code of the server as its only argument, when
    no server starts, TimeoutError when one takes longer than ``seconds``.
    """
    environment = child_environment()
    while server := _taken(environment):
        try:
            return server.run(program, stderr_fd, fds, seconds)
        except (ChildProcessError, TimeoutError):  # it was killed, or ended just now
            continue
    return _Server(environment, stderr_fd).run(program, stderr_fd, fds, seconds)


def close_idle_servers() -> None:
    """End the servers that have no child."""
    with _lock:
        servers, _idle[:] = list(_idle), []
    for each in servers:
        each.close()


def _taken(environment: dict[str, str]) -> _Server | None:
    """An idle server with this environment; those with another one are ended."""
    while True:
        with _lock:
            if not _idle:
                return None
            server = _idle.pop()
        if server.environment == environment:
            return server
        server.close()


def _forget_idle() -> None:
    """After a fork of this process: the servers are those of the parent."""
    global _lock
    _lock = threading.Lock()
    while _idle:
        _idle.pop().forget()


atexit.register(close_idle_servers)
os.register_at_fork(after_in_child=_forget_idle)


class Child:
    """A forked process, with the methods of a ``subprocess.Popen`` that its stream needs."""

    def __init__(self, server: _Server, pid: int) -> None:
        self.pid, self._owner = pid, os.getpid()
        self._server: _Server | None = server

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the child has ended. No other process gets its number before
        ``wait``."""
        if self._server and self._owner == os.getpid():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code once it has ended, negative for a signal; its server takes the next one.

        It is -SIGKILL, too, where the server has been killed: it knew the exit code.
        """
        if self._server is None or self._owner != os.getpid():
            return -signal.SIGKILL
        server, self._server = self._server, None
        code = server.receive()
        if code and server.let_go():
            with _lock:
                _idle.append(server)
        else:
            server.close()
        return int(code or -signal.SIGKILL)


class _Server:
    """The parent's end of a server."""

    def __init__(self, environment: dict[str, str], stderr_fd: int) -> None:
        self.environment = environment
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lifeline_fd, self._lifeline_fd = os.pipe()
        program = "from vadprep.video.fork_server import serve; serve(*map(int, sys.argv[1:]))"
        fds = theirs.fileno(), lifeline_fd
        alone = environment | {"OPENBLAS_NUM_THREADS": "1"}  # a fork copies no threads
        try:
            self._process = start_program(program, fds, stderr_fd, alone)
        except BaseException:
            self._close_fds()
            raise
        finally:
            theirs.close()
            os.close(lifeline_fd)

    def run(
        self, program: Sequence[str], stderr_fd: int, fds: Sequence[int], seconds: float
    ) -> Child:
        """Fork a child; after an exception the server has ended."""
        try:
            self._requests.settimeout(seconds)
            with suppress(ConnectionError):  # it has ended: there will be no answer
                request = json.dumps(program).encode()
                socket.send_fds(self._requests, [request], [stderr_fd, *fds])
            words = self.receive()
            self._requests.settimeout(None)
        except BaseException:
            self.close()
            raise
        if not words:
            raise ChildProcessError(self.close())
        return Child(self, int(words))

    def let_go(self) -> bool:
        """Give up the number of the child, which has ended; False when the server has, too."""
        with suppress(ConnectionError):
            self._requests.send(GONE)
        return self.receive() == GONE

    def receive(self) -> bytes:
        """Its next message; empty when it has ended."""
        with suppress(ConnectionError):
            return self._requests.recv(MOST_BYTES)
        return b""

    def close(self) -> int:
        """End it: its exit code. It counts what its children have used."""
        self._requests.close()
        try:
            return self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            os.close(self._lifeline_fd)

    def forget(self) -> None:
        """Close the files of a server of another process, so that it ends with that one."""
        self._close_fds()
        self._process.returncode = 0

    def _close_fds(self) -> None:
        self._requests.close()
        os.close(self._lifeline_fd)


def serve(requests_fd: int, lifeline_fd: int) -> None:
    """The server: fork a child for each request, one after the other, until the parent is gone."""
    die_with_parent(lifeline_fd)
    for load in (lambda: importlib.import_module("av"), import_decord):
        with suppress(Exception):  # a child that needs it says what is wrong
            load()
    gc.freeze()  # else the first collection in each child would copy all pages
    requests = socket.socket(fileno=requests_fd)
    requests.settimeout(IDLE_SECONDS)
    with suppress(TimeoutError, ConnectionError):
        while True:
            request, fds, _, _ = socket.recv_fds(requests, MOST_BYTES, MOST_FDS)
            if not request:
                return
            pid = os.fork()
            if not pid:
                requests.close()
                os.close(lifeline_fd)
                _run(json.loads(request), fds)
            for fd in fds:
                os.close(fd)
            requests.settimeout(None)
            requests.send(str(pid).encode())
            # A zombie keeps its number until the parent has no more use for it.
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert ended is not None
            has_exited = ended.si_code == os.CLD_EXITED
            requests.send(str(ended.si_status if has_exited else -ended.si_status).encode())
            requests.recv(MOST_BYTES)
            os.waitpid(pid, 0)
            requests.settimeout(IDLE_SECONDS)
            requests.send(GONE)


def _run(program: list[str], fds: list[int]) -> None:
    """The child; it does not return."""
    code = 1
    try:
        os.setsid()
        os.dup2(fds[0], 2)
        module, *words = program
        importlib.import_module(module).main(*words, *map(str, fds[1:]))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
