-- replication.sql: what logical replication needs to know. See src/replication.c.

create function evsource._replicated_row() returns trigger
    language c as 'MODULE_PATHNAME', 'evsource_replicated_row';
comment on function evsource._replicated_row() is 'Internal: sees the rows that a subscription stores.';

-- For rows that come with everything: they are not numbered and not dispatched.
create trigger replicated_row before insert on evsource.events
    for each row execute function evsource._replicated_row();
alter table evsource.events enable replica trigger replicated_row;

-- How far somebody had followed the log here when a subscription began to fill it. More than one
-- row where transactions that did not see each other were the first; the lowest counts.
create table evsource.followed (
    subscription oid not null,
    position     bigint not null
);
comment on table evsource.followed is 'Internal: how far the log of a copy was followed before it was one. See src/replication.c.';
alter table evsource.followed replica identity full;
-- Another copy's may come with a publication of all tables. It is written by the triggers only.
create trigger replicated_row before insert on evsource.followed
    for each row when (pg_catalog.pg_trigger_depth() = 0) execute function evsource._replicated_row();
alter table evsource.followed enable replica trigger replicated_row;
create trigger replicated_row before insert on evsource.published
    for each row execute function evsource._replicated_row();
alter table evsource.published enable replica trigger replicated_row;

-- What is published arrives as a new row each time (src/publish.c), and takes the place of whatever
-- is there: nothing, if the table did not come with the log, or what this database has published itself.
create function evsource._published_arrives() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
    as $$
begin
    delete from evsource.published;
    new.arrived := new.safe_position;
    return new;
end
$$;
comment on function evsource._published_arrives() is 'Internal: notes in a copy which position has come from the original.';
create trigger published_arrives before insert on evsource.published
    for each row execute function evsource._published_arrives();
alter table evsource.published enable replica trigger published_arrives;

-- This table has no key, and a publication needs to know which row changed.
alter table evsource.store replica identity full;
