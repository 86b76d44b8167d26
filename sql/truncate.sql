-- truncate.sql: let the begin of a stream go.

create function evsource.truncate_stream(stream text, before_version bigint, force boolean default false) returns bigint
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_truncate_stream';
comment on function evsource.truncate_stream(text, bigint, boolean) is
'Removes the events of a stream before this version, for the owner of evsource; the states that they produced are kept. Returns how many there were, and appends StreamTruncated to the stream evsource-lifecycle. Errors: 55000 when a fold over the stream has no snapshot at or after the version, a projection has not applied the events or has parked them, or a subscription has not acknowledged them (none of these with force); 42704, 22023, 22004, 42501.';
