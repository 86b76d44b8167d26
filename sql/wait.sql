-- wait.sql: read your own writes. See src/wait.c.

create function evsource.wait_for(
    projection text,
    up_to bigint default null,
    timeout interval default '10s')
    returns bigint
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_wait_for';
comment on function evsource.wait_for(text, bigint, interval) is
'Waits until the projection has applied the log up to a position (null: up to the last event appended so far), and returns the position that it has reached; the next statement sees the read model, without events that were parked as dead letters. A null timeout waits without limit. Errors: 42704 unknown projection, 55000 when it is paused or has failed or when the events are of the caller''s own transaction, 22023 for a position that was not assigned, 25000 under REPEATABLE READ, VE009 when the time is over, 55P03 while the extension is updated or dropped.';
