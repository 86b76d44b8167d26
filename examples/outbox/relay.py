#!/usr/bin/python3
"""Publish the log of evsource to a Redis stream: each event at least once, in order.

    relay.py NAME

Connects to PostgreSQL as libpq does (PGHOST, PGDATABASE, ...) and to the Redis
whose socket is REDIS_SOCKET. Start several, each with a name of its own: one
works, and when it dies another takes over.
"""
import os
import sys
import time

import psycopg
import redis

# One partition: the whole log in its order. No event is given up, however long the
# broker is away.
SETUP = "select evsource.create_subscription('redis', max_attempts => 0, if_exists => 'keep')"

# Waits until there is something, without polling.
NEXT = """
    select id::text, position, stream, version, type, data::text,
           coalesce(metadata::text, '{}'), occurred_at::text, receipt
    from evsource.fetch_events('redis', 500, consumer => %s, lease => '5s', wait => '10s')"""

FIELDS = ("id", "position", "stream", "version", "type", "data", "metadata", "occurred_at")


def publish(broker, events):
    """All of them or none, in one round trip, as soon as the broker takes them."""
    while True:
        pipeline = broker.pipeline(transaction=True)
        for event in events:
            pipeline.xadd("events", dict(zip(FIELDS, event)))
        try:
            pipeline.execute()
            return
        except redis.exceptions.RedisError as error:
            # Away, full, read only: somebody will see to it. No event gets into the log.
            reason = str(error).rpartition("caused error: ")[2]
            print(f"waiting for the broker: {reason}", file=sys.stderr, flush=True)
            time.sleep(1)


def main(name):
    db = psycopg.connect(autocommit=True)
    db.execute("set synchronous_commit = off")  # an ack that a crash loses is done again
    db.execute(SETUP)
    broker = redis.Redis(unix_socket_path=os.environ["REDIS_SOCKET"])
    while True:
        events = db.execute(NEXT, (name,)).fetchall()
        if events:
            publish(broker, events)
            # Killed here, it publishes these events again: that is why they carry their id.
            db.execute("select evsource.ack(%s)", (events[-1][-1],))


if __name__ == "__main__":
    main(sys.argv[1])
