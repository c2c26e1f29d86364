"""Jobs of many hosts for a few workers, so that one slow host holds up its own jobs only."""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class HostQueue(Generic[Job]):
    """Hands out jobs, hosts in turn, at most `per_host` of one host at a time."""

    def __init__(self, jobs: Iterable[tuple[str, Job]], per_host: int):
        self._waiting: dict[str, deque[Job]] = {}
        for host, job in jobs:
            self._waiting.setdefault(host, deque()).append(job)
        self._ready = deque(self._waiting)  # hosts that have a job waiting and are not busy with as many as they may
        self._busy: Counter[str] = Counter()
        self._per_host = per_host
        self._changed = asyncio.Condition()

    async def take(self) -> tuple[str, Job] | None:
        """The next host and job, as soon as a host is free; None when all jobs have been handed out."""
        async with self._changed:
            while not self._ready:
                if not self._waiting:
                    return None
                await self._changed.wait()
            host = self._ready.popleft()
            jobs = self._waiting[host]
            job = jobs.popleft()
            self._busy[host] += 1
            if not jobs:
                del self._waiting[host]
                self._changed.notify_all()  # those who wait for this host wait for nothing
            elif self._busy[host] < self._per_host:
                self._ready.append(host)
            return host, job

    async def done(self, host: str) -> None:
        """A job of this host has ended."""
        async with self._changed:
            self._busy[host] -= 1
            if host in self._waiting and self._busy[host] == self._per_host - 1:
                self._ready.append(host)
                self._changed.notify()
