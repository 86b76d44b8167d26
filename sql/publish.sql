-- publish.sql: the safe position for standbys. See src/publish.c.

create function evsource.publish_safe_position() returns bigint
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_publish_safe_position';
comment on function evsource.publish_safe_position() is
'Publishes the safe position in evsource.published, where a standby reads it, and returns it. Error: 25006 on a standby and in a copy.';
