# SPDX-License-Identifier: LGPL-2.1-or-later
"""What may go wrong, each as one sentence for the user."""

from enum import Enum

FAILED, USAGE = 1, 2  # exit statuses


class ClusterError(Exception):
    """A sentence and the exit status that goes with it."""

    def __init__(self, sentence: str, status: int = FAILED):
        super().__init__(sentence, status)
        self.sentence = sentence
        self.status = status

    def __str__(self) -> str:
        return self.sentence


class UsageError(ClusterError):
    """An option or a file that cannot be meant."""

    def __init__(self, sentence: str, status: int = USAGE):
        super().__init__(sentence, status)


class Cause(Enum):
    """What a part that failed says about where it ran, and so what is done next."""

    UNFIT = "unfit"  # the worker cannot run any part: it is left out
    CRASH = "crash"  # a signal, a stall, or a worker that was lost: run it again
    REFUSED = "refused"  # ffmpeg ended with an error: run it again, elsewhere if possible
    FATAL = "fatal"  # no worker could do better, such as a full disk


class PartError(ClusterError):
    """A part that was not made."""

    def __init__(self, cause: Cause, sentence: str):
        super().__init__(sentence)
        self.cause = cause
        self.args = (cause, sentence)
