"""What a storage test lets another process do: python -m tests.integration.storage_process <job> <url> …"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clock import SystemClock, UuidV7
from server.storage import migrate, schema
from server.storage.database import Database
from server.storage.first_start import ensure_default_team
from server.storage.group_commit import GroupCommit
from server.storage.tables import teams


async def cold_start(url: str, data_dir: str) -> None:
    """All that a gateway does with the database when it starts; prints the key where this process got it."""
    await migrate.upgrade(url)
    await schema.verify(url)
    database = Database.open(url)
    try:
        made = await ensure_default_team(database, SystemClock(), UuidV7(), Path(data_dir))
    finally:
        await database.close()
    if made is not None:
        print(made.key)


async def count_up(url: str, times: str) -> None:
    """Read a number and write it back plus one, in one transaction each, eight at a time."""
    database = Database.open(url)
    commits = GroupCommit(database)

    async def work(connection: AsyncConnection) -> None:
        value = (await connection.execute(select(teams.c.created_at))).scalar_one()
        await connection.execute(update(teams).values(created_at=value + 1))

    async def lane() -> None:
        for _ in range(int(times) // 8):
            await commits.submit(work)
            await database.write(work)

    try:
        await asyncio.gather(*(lane() for _ in range(8)))
    finally:
        await commits.close()
        await database.close()


async def threads_left(url: str) -> None:
    """Use the database, close it, and print how many threads are left beside this one."""
    database = Database.open(url)

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(select(teams.c.id))

    def transaction(connection: Connection) -> None:
        connection.execute(select(teams.c.id))

    works = [(database.read(work), database.write(work), database.transact(transaction)) for _ in range(50)]
    await asyncio.gather(*(call for calls in works for call in calls))
    await database.close()
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in others:
        thread.join(1)  # one that was told to end may be on its last line
    print(sum(thread.is_alive() for thread in others))


async def write_until_killed(url: str) -> None:
    """Print the name of each team once it is written, many at a time, for ever."""
    database = Database.open(url)
    commits = GroupCommit(database)

    async def lane(number: int) -> None:
        for count in range(1_000_000):
            name = f"lane{number}-{count}"

            async def work(connection: AsyncConnection, name: str = name) -> None:
                await connection.execute(insert(teams).values(id=name, name=name, created_at=0))

            await commits.submit(work)
            print(name, flush=True)

    await asyncio.gather(*(lane(number) for number in range(16)))


JOBS = {
    "cold_start": cold_start,
    "count_up": count_up,
    "threads_left": threads_left,
    "write_until_killed": write_until_killed,
}

if __name__ == "__main__":
    asyncio.run(JOBS[sys.argv[1]](*sys.argv[2:]))
