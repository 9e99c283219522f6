"""Shows who says what, line by line: ``[sub1] ...``."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any, TextIO

from .protocol import Message
from .results import Result

LONGEST_LINE = 1 << 16  # characters; what is longer is shown in pieces


class Labels:
    """Prints what members say and keeps it in their results; used by several threads.

    A line is shown once it is whole, so that lines of several members do not mix.
    """

    def __init__(self, display_pub: Any, *, quiet: bool) -> None:
        self._streams: dict[str, TextIO] = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._display_pub = display_pub
        self._quiet = quiet
        self._begun: dict[tuple[str, str], str] = {}  # lines of a host on a stream
        self._lock = threading.RLock()

    def show(self, result: Result, message: Message) -> None:
        """Show a message of another member's kernel."""
        content = json.loads(message.content)
        if message.kind == "stream":
            self.write(result, content["name"], content["text"])
        elif message.kind == "error":
            self.error(result, content["ename"], content["evalue"], content["traceback"])
        elif message.kind in ("display_data", "execute_result", "update_display_data"):
            self.display(result, content, update=message.kind == "update_display_data")

    def write(self, result: Result, stream: str, text: str) -> None:
        with self._lock:
            result.write(stream, text)
            text = self._begun.pop((result.host, stream), "") + text
            whole, newline, begun = text.rpartition("\n")
            self._print(result.host, stream, whole + newline)
            # Of a line that was written over, as progress bars do, the last state is shown.
            begun = begun[begun.rstrip("\r").rfind("\r") + 1 :]
            if len(begun) > LONGEST_LINE:
                self._print(result.host, stream, f"{begun}\n")
            elif begun:
                self._begun[result.host, stream] = begun

    def display(self, result: Result, content: dict[str, Any], *, update: bool) -> None:
        """Show what another member displays."""
        with self._lock:
            if not self.announce(result, content, update=update):
                return
            transient = dict(content.get("transient") or {})
            if display_id := transient.get("display_id"):
                transient["display_id"] = f"{result.host}-{display_id}"
            self._display_pub.publish(
                content["data"], content.get("metadata"), transient=transient, update=update
            )

    def announce(self, result: Result, content: dict[str, Any], *, update: bool) -> bool:
        """Say whose display comes, and return whether it is to come: it may have been but text."""
        data = content["data"]
        with self._lock:
            self._flush(result.host)
            if not update:
                result.displays.append(data)
            plain = set(data) == {"text/plain"} and not content.get("transient")
            if not update:
                self._print(result.host, "stdout", f"{data['text/plain'] if plain else ''}\n")
        return not plain and not self._quiet

    def error(self, result: Result, ename: str, evalue: str, traceback: list[str]) -> None:
        with self._lock:
            self._flush(result.host)
            result.traceback = traceback
            self._print(result.host, "stderr", "\n".join(traceback) + "\n")

    def note(self, host: str, text: str) -> None:
        with self._lock:
            self._print(host, "stderr", f"{text}\n")

    def end(self, result: Result) -> None:
        with self._lock:
            self._flush(result.host)
            if result.status == "lost":
                self._print(result.host, "stderr", f"{result.summary}\n")

    def _flush(self, host: str) -> None:
        for stream in self._streams:
            if begun := self._begun.pop((host, stream), ""):
                self._print(host, stream, f"{begun}\n")

    def _print(self, host: str, stream: str, lines: str) -> None:
        if self._quiet or not lines:
            return
        label = f"[{host}] "
        labelled = "".join(f"{label}{line}\n" for line in lines[:-1].split("\n"))
        self._streams[stream].write(labelled)
