-- fold.sql: fold functions that come with evsource. See src/fold.c.

create function evsource.fold_merge(state jsonb, event evsource.event) returns jsonb
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'evsource_fold_merge';
comment on function evsource.fold_merge(jsonb, evsource.event) is
'Merges the data of each event into the state, as state || data does. A fold handler.';

create function evsource.fold_count(state jsonb, event evsource.event) returns jsonb
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'evsource_fold_count';
comment on function evsource.fold_count(jsonb, evsource.event) is
'Counts the events: {"count": n}. A fold handler.';

create function evsource.fold_sum(state jsonb, event evsource.event, path text[]) returns jsonb
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'evsource_fold_sum';
comment on function evsource.fold_sum(jsonb, evsource.event, text[]) is
'Adds up the numbers at the projection''s path in the data of the events: {"sum": n}. A fold handler. Error: 22023 for a value that is not a number.';
