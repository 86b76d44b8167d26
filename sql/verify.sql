-- verify.sql: is a read model what the log makes of it, and what would another
-- handler make of it? See src/verify.c, src/try.c.

create function evsource.verify_projection(
    projection text,
    sample double precision default null,
    max_differences integer default 1,
    ignore text[] default null,
    out relation text, out key text, out "position" bigint, out stream text, out version bigint,
    out is_missing boolean, out stored jsonb, out computed jsonb)
    returns setof record
    language c volatile parallel unsafe rows 1
    as 'MODULE_PATHNAME', 'evsource_verify_projection';
comment on function evsource.verify_projection(text, double precision, integer, text[]) is
'Replays the log beside the read model and returns the first differences, or no rows when there are none. position, stream and version name the event that explains a difference. sample, for folds by stream: up to 1 a fraction of the keys, above 1 a number of them. ignore: columns, or members of states, that are not compared. Errors: 42704, 42501, 22023, 55000 when the projection names no tables, 0A000 when its handler does not find them by the search_path.';

create function evsource.try_projection(
    projection text,
    handler text default null,
    from_position bigint default null,
    to_position bigint default null,
    query text default null,
    max_differences integer default null,
    ignore text[] default null,
    out relation text, out key text, out was jsonb, out becomes jsonb)
    returns setof record
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_try_projection';
comment on function evsource.try_projection(text, text, bigint, bigint, text, integer, text[]) is
'Replays a part of the log through the projection as it is and with another handler or query, each into an empty read model, and returns what differs. An event at which the projection has failed is a row of evsource.events; the projection as it is skips parked events, and stops where it is stuck. Leaves nothing behind. Errors: 42704, 42501, 22023, 55000 and 0A000 as verify_projection; those of create_projection for the handler.';
