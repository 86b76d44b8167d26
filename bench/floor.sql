-- The floor: a plain table of the same columns and indexes as evsource.events,
-- filled by plain INSERTs, its position drawn by a column default.
create extension evsource;

create schema floor;
create sequence floor.position_seq;
create table floor.events (like evsource.events including all);
alter table floor.events alter position set default nextval('floor.position_seq'),
    alter recorded_at set default now();

-- What clients append: 200 bytes of jsonb as stored, and batches of it ready to
-- be taken (not compressed: to unpack it is not what is measured).
create schema bench;
create table bench.batches (size int primary key, types text[], data jsonb[]);
alter table bench.batches alter types set storage external, alter data set storage external;
create function bench.data(i bigint) returns jsonb immutable language sql as $$
select jsonb_build_object(
    'amount', (i % 100000) / 100.0, 'currency', 'EUR', 'account', 'DE02 1203 0000 0000 2020 51',
    'reference', lpad(i::text, 12, '0'), 'counterparty', 'Example Trading GmbH & Co',
    'booked_by', 'ann', 'final', true)
$$;
insert into bench.batches
select size, array_agg('MoneyDeposited'::text order by i), array_agg(bench.data(i) order by i)
from unnest(array[1, 100, 1000]) size, generate_series(1, size) i
group by size;
