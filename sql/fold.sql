-- fold.sql: fold functions that come with evsource. See src/fold.c.

create function evsource.fold_merge(state jsonb, event evsource.event) returns jsonb
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'evsource_fold_merge';
comment on function evsource.fold_merge(jsonb, evsource.event) is
'Fold handler: merges the data of each event into the state, as state || data does.';

create function evsource.fold_count(state jsonb, event evsource.event) returns jsonb
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'evsource_fold_count';
comment on function evsource.fold_count(jsonb, evsource.event) is
'Fold handler: counts the events, {"count": n}.';

create function evsource.fold_sum(state jsonb, event evsource.event, path text[]) returns jsonb
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'evsource_fold_sum';
comment on function evsource.fold_sum(jsonb, evsource.event, text[]) is
'Fold handler with a path: adds up the numbers that stand there in the data of the events, {"sum": n}. Error: 22023 for what is no number.';
