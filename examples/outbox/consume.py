#!/usr/bin/python3
"""Take what relay.py publishes, and keep each event once, in an SQLite file.

    consume.py FILE

What it does with an event and the place where it goes on commit together, and
an id that is there already is left out. So it may be killed, and events may come
twice.
"""
import os
import sqlite3
import sys

import redis


def main(file):
    broker = redis.Redis(unix_socket_path=os.environ["REDIS_SOCKET"], decode_responses=True)
    db = sqlite3.connect(file)
    db.executescript("""
        create table if not exists received (n integer primary key, id text unique, position integer, type text);
        create table if not exists place (last text);
        insert into place select '0' where not exists (select * from place);""")
    (last,) = db.execute("select last from place").fetchone()

    while True:
        for _, messages in broker.xread({"events": last}, count=500, block=1000):
            with db:  # one transaction
                for last, event in messages:
                    db.execute("insert or ignore into received (id, position, type) values (?, ?, ?)",
                               (event["id"], event["position"], event["type"]))
                db.execute("update place set last = ?", (last,))


if __name__ == "__main__":
    main(sys.argv[1])
