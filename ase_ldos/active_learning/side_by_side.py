"""Work on several cores: processes of our own that share the threads of this one and end with it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_side_by_side(function: Callable[[Item], Result], items: Sequence[Item], n_processes: int) -> list[Result]:
    """What a function gives for each of several items, in their order.

    Several at a time run in processes of their own. As with any process that Python starts anew, a script that asks for
    more than one needs ``if __name__ == "__main__":`` around what it does.

    Args:
        function: of a module, and like its argument one that can be sent to a process.
        items: what it is called with.
        n_processes: how many at a time; with one, or one item, all happens in this process.

    Raises:
        BrokenProcessPool: a process was killed from outside, for instance for want of memory.
    """
    n_processes = min(n_processes, len(items))
    if n_processes < 2:
        return [function(item) for item in items]
    threads = max(1, torch.get_num_threads() // n_processes)
    others = set(active_children())
    with ProcessPoolExecutor(n_processes, get_context("spawn"), _prepare_process, (threads,)) as pool:
        try:
            return list(pool.map(function, items))
        except BaseException:  # an interrupt too: nobody waits for hours
            for child in set(active_children()) - others:
                child.terminate()
            raise


def _prepare_process(threads: int) -> None:
    """Within a process of the pool: its share of the cores, and an end when the one that started it ends."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent gets it too and ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # trainings save as they go; two of them must not write to one checkpoint
