"""Waiting for consumers, which do nothing unless they are polled."""

import time

DEADLINE = 120


def poll_until(what, members, condition, state=lambda: ""):
    """Polls each of `members` until `condition` holds; what it says if that takes too long ends with `state`."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} {state()}"
        for member in members:
            member.poll()
