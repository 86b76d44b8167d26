#!/usr/bin/python3
"""Publish the log of evsource to a Redis stream: each event at least once, in order.

Connects to PostgreSQL as libpq does (PGHOST, PGDATABASE, ...) and to the Redis
whose socket is REDIS_SOCKET. Start as many as you like: one works, the others
wait to take over.
"""
import os
import time

import psycopg
import redis

BATCH = 500
IDLE = 0.1  # seconds between looks at a log with nothing new

NEXT = """
    select position, id::text, stream, version, type, data::text,
           coalesce(metadata::text, '{}'), occurred_at::text
    from evsource.read_all(%s, %s)"""


def publish(broker, events):
    """All of them, in one round trip, or an exception."""
    pipeline = broker.pipeline(transaction=False)
    for position, id, stream, version, type, data, metadata, occurred_at in events:
        pipeline.xadd("events", {
            "id": id, "position": position, "stream": stream, "version": version, "type": type,
            "data": data, "metadata": metadata, "occurred_at": occurred_at})
    pipeline.execute()


def main():
    db = psycopg.connect(autocommit=True)
    broker = redis.Redis(unix_socket_path=os.environ["REDIS_SOCKET"])

    # The lock goes with the session, however that ends.
    db.execute("select pg_advisory_lock(hashtext('outbox relay'))")
    db.execute("create table if not exists outbox_relay (after_position bigint not null)")
    db.execute("insert into outbox_relay select 0 where not exists (select from outbox_relay)")
    (after,) = db.execute("select after_position from outbox_relay").fetchone()

    while True:
        events = db.execute(NEXT, (after, BATCH)).fetchall()
        if not events:
            time.sleep(IDLE)
            continue
        publish(broker, events)
        # Killed here, it publishes these events again: that is why they carry their id.
        after = events[-1][0]
        db.execute("update outbox_relay set after_position = %s", (after,))


if __name__ == "__main__":
    main()
