-- replication.sql: what logical replication needs to know. See src/replication.c.

create function evsource._replicated_row() returns trigger
    language c as 'MODULE_PATHNAME', 'evsource_replicated_row';
comment on function evsource._replicated_row() is 'Internal: sees the rows that a subscription stores in evsource.events.';

-- For rows that come with everything: they are not numbered and not dispatched.
create trigger replicated_row before insert on evsource.events
    for each row execute function evsource._replicated_row();
alter table evsource.events enable replica trigger replicated_row;

-- Tables of one row have no key. A publication needs to know which row changed.
alter table evsource.store replica identity full;
alter table evsource.published replica identity full;
