"""Refuses what a sheet has no need of: files that are not its own, other processes, the network."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown")
CHANGES += ("os.truncate", "os.utime", "os.setxattr", "shutil.rmtree", "shutil.move", "shutil.copyfile")
LISTS = ("os.listdir", "os.scandir", "os.walk", "glob.glob")
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn")
PROCESSES += ("pty.spawn", "os.startfile", "ctypes.dlopen")
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def install(own: str, hidden: Iterable[str], tell: Callable[[str], None]) -> None:
    """From now on refuse, with a PermissionError, and `tell` what was tried. It cannot be taken back.

    own: the one folder in which files may be written. hidden: folders that may not be read.
    """
    own, hidden = os.path.realpath(own), [os.path.realpath(folder) for folder in hidden]

    def refuse(what: str) -> None:
        tell(what)
        raise PermissionError(f"not while a sheet is marked: it {what}")

    def within(path: Any, folder: str) -> bool:
        real = os.path.realpath(os.fsdecode(path))
        return real == folder or real.startswith(folder + os.sep)

    def look(event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, (str, bytes, os.PathLike)):
                return
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & _WRITES):
                if not within(path, own) and os.fsdecode(path) != os.devnull:
                    refuse(f"wrote outside of its folder: {os.fsdecode(path)}")
            elif any(within(path, folder) for folder in hidden):
                refuse(f"read {os.path.relpath(os.fsdecode(path), os.path.dirname(hidden[0]))}")
        elif event in CHANGES:
            for path in arguments:
                if isinstance(path, (str, bytes, os.PathLike)) and not within(path, own):
                    refuse(f"changed something outside of its folder: {os.fsdecode(path)}")
        elif event in LISTS:
            path = arguments[0] if arguments else None
            if isinstance(path, (str, bytes, os.PathLike)) and any(within(path, folder) for folder in hidden):
                refuse(f"looked into {os.path.relpath(os.fsdecode(path), os.path.dirname(hidden[0]))}")
        elif event in PROCESSES:
            refuse("started another process")
        elif event in NETWORK:
            refuse("used the network")

    sys.addaudithook(look)
