-- The safe position is published in a table, where a standby reads it.

select version from evsource.append('publish-1', 'A');
select evsource.publish_safe_position() = evsource.safe_position() as returns_the_safe_position;
select count(*) as rows, bool_and(safe_position = evsource.safe_position()) as is_the_safe_position,
    bool_and(published_at between now() - interval '1 hour' and now()) as has_its_time
from evsource.published;

-- There is one row, which moves with the log,
select version from evsource.append('publish-1', 'B');
select safe_position < evsource.safe_position() as behind from evsource.published;
select evsource.publish_safe_position() = evsource.safe_position() as returns_the_safe_position;
select count(*) as rows, bool_and(safe_position = evsource.safe_position()) as is_the_safe_position
from evsource.published;

-- and never goes back: what this transaction has appended is not safe yet.
begin;
select version from evsource.append('publish-1', 'C');
select evsource.publish_safe_position() = (select last_value - 1 from evsource.position_seq) as before_own_event;
commit;
select (select max(safe_position) from evsource.published)
    = (select position from evsource.events where stream = 'publish-1' and version = 2) as before_own_event;

-- Publishing is part of its transaction.
begin;
select evsource.publish_safe_position() > (select safe_position from evsource.published) as before;
rollback;
select safe_position < evsource.safe_position() as behind from evsource.published;

-- A read-only transaction cannot.
begin read only;
select evsource.publish_safe_position();
rollback;
