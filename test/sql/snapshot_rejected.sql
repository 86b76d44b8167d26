-- What an owner's function says when it cannot bring up a snapshot, however much
-- that is, stops neither a load nor an append, and is told once for all keys.

create function rejected_last(state jsonb, e evsource.event) returns jsonb language sql immutable as
    $$ select state || (e).data $$;
create function rejected_no(state jsonb, saved int) returns jsonb language plpgsql as
    $$ begin raise exception 'cannot migrate %', state using errcode = 'RJ001'; end $$;
select evsource.create_projection('rejected', 'rejected_last', categories => '{rejected}');
select version from evsource.append('rejected-1', 'T', jsonb_build_object('big', repeat('0123456789', 1000)));
select version from evsource.append('rejected-2', 'T', '{"a": 2}');
select version from evsource.append('rejected-3', 'T', '{"a": 3}');
select evsource.save_snapshot('rejected');
select evsource.alter_projection('rejected', state_version => 2, migrate_state => 'rejected_no');

-- a transaction that rolls back takes what it noted with it; the next one notes it
begin;
select evsource.state('rejected', 'rejected-2');
select count(*) from evsource.snapshot_rejections where projection = 'rejected';
rollback;
select count(*) from evsource.snapshot_rejections where projection = 'rejected';
begin;
savepoint a;
select evsource.state('rejected', 'rejected-2');
rollback to a;
select evsource.state('rejected', 'rejected-2');
commit;
select rejection, rejection_message, rejected_key from evsource.snapshot_status where projection = 'rejected';

-- one row, whatever was said of the others
select version from evsource.append('rejected-1', 'T', '{"b": 1}');
select length(evsource.state('rejected', 'rejected-1')::text);
select evsource.state('rejected', 'rejected-3');
select count(*) from evsource.snapshot_rejections where projection = 'rejected';

-- when all snapshots have been replaced there is nothing to tell
select evsource.restore_projection('rejected');
select outdated, rejection from evsource.snapshot_status where projection = 'rejected';

select evsource.drop_projection('rejected');
drop function rejected_last, rejected_no;
