#!/usr/bin/python3
"""An account in evsource, with psycopg 3. Connects as libpq does (PGHOST, ...).

    shop.py deposit account-1 100      append, and see it in the read model
    shop.py withdraw account-1 30      decide on the state, and again when it has moved on
    shop.py letters NAME               write a letter for each event; start several
    shop.py listen [SECONDS]           print when there are new events, and each change of the read model
"""
import select
import sys
import time

import psycopg
from psycopg.types.json import Jsonb

WRONG_VERSION = "VE001"
LEASE_LOST = "VE005"

SETUP = """
    create extension if not exists evsource;
    create table if not exists balances (account text primary key, balance numeric not null);
    select evsource.create_projection('balances', mode => 'async', if_exists => 'keep', query => $$
        insert into balances as b
            select stream, sum((data->>'amount')::numeric) from new_events group by stream
        on conflict (account) do update set balance = b.balance + excluded.balance $$);
    create table if not exists letters (n bigserial, account text, version bigint, type text, writer text);
    select evsource.create_subscription('letters', categories => '{account}', partitions => 4, if_exists => 'keep')"""


def append(db, stream, type, data, expected_version=None):
    """The position of the event."""
    query = "select position from evsource.append(%s, %s, %s, expected_version => %s)"
    return db.execute(query, (stream, type, Jsonb(data), expected_version)).fetchone()[0]


def deposit(db, account, amount):
    return append(db, account, "Deposited", {"amount": amount})


def withdraw(db, account, amount, attempts=10):
    """Load, decide, append; whoever was faster is no reason to give up."""
    for _ in range(attempts):
        version, balance = db.execute(
            "select coalesce(max(version), 0), coalesce(sum((data->>'amount')::numeric), 0)"
            " from evsource.read_stream(%s)", (account,)).fetchone()
        if balance < amount:
            raise ValueError(f"{account} has {balance}")
        try:
            return append(db, account, "Withdrawn", {"amount": -amount}, expected_version=version)
        except psycopg.Error as error:
            if error.sqlstate != WRONG_VERSION:
                raise
    raise TimeoutError(f"{account} has moved on {attempts} times")


def balance(db, account, position):
    """What the read model says once it has our own event."""
    db.execute("select evsource.wait_for('balances', %s, '10s')", (position,))
    return db.execute("select balance from balances where account = %s", (account,)).fetchone()[0]


def write_letters(db, name):
    """One consumer of a group: they divide the accounts, each account's events come in order."""
    while True:
        events = db.execute(
            "select stream, version, type, receipt from evsource.fetch_events('letters', consumer => %s, wait => '5s')",
            (name,)).fetchall()
        if not events:
            continue
        try:
            with db.transaction():  # the letters and their receipt, or neither
                for account, version, type, receipt in events:
                    db.execute("insert into letters (account, version, type, writer) values (%s, %s, %s, %s)",
                               (account, version, type, name))
                db.execute("select evsource.ack(%s, required => true)", (receipt,))
        except psycopg.Error as error:
            if db.broken:
                raise
            if error.sqlstate != LEASE_LOST:  # we were too slow, and another one writes them
                db.execute("select evsource.nack(%s, %s)", (receipt, str(error)))


def listen(db, seconds):
    """Call db.notifies() when the socket has something, as any event loop does."""
    db.execute("listen evsource_events")
    db.execute("listen evsource_projection")
    print("listening", flush=True)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([db.fileno()], [], [], left)[0]:
            db.pgconn.consume_input()
            while notify := db.pgconn.notifies():
                print(notify.relname.decode(), notify.extra.decode(), flush=True)


def main(command, *arguments):
    with psycopg.connect(autocommit=True) as db:
        with db.transaction():
            db.execute("select pg_advisory_xact_lock(1)")
            db.execute(SETUP)
        if command == "listen":
            listen(db, float(arguments[0]) if arguments else 1e9)
        elif command == "letters":
            write_letters(db, arguments[0])
        else:
            account, amount = arguments
            position = {"deposit": deposit, "withdraw": withdraw}[command](db, account, int(amount))
            print(balance(db, account, position))


if __name__ == "__main__":
    main(*sys.argv[1:])
