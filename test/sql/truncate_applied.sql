-- truncate_applied: a projection that is behind keeps a stream from being truncated only
-- if it would have to apply what goes.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_truncate_applied;
create database evsource_truncate_applied;
\c evsource_truncate_applied
create extension evsource;
\set VERBOSITY terse

select evsource.create_projection('late', 'evsource.fold_count', types => '{Counted}', key => 'global', mode => 'async');
select evsource.create_projection('never', 'evsource.fold_count', types => '{Elsewhere}', mode => 'manual');
select evsource.append('s-1', 'Counted') is not null as appended;
select evsource.run_projection('late');
select max(a.version) from (values ('Other'), ('Other'), ('Counted'), ('Other')) v (type), lateral evsource.append('s-1', v.type) a;
select evsource.truncate_stream('s-1', 3);
select evsource.truncate_stream('s-1', 5);
select evsource.run_projection('late');
select evsource.truncate_stream('s-1', 5);
select evsource.state('late');
-- one that begins after it would not apply it either
select max(a.version) from (values ('Counted'), ('Counted')) v (type), lateral evsource.append('s-2', v.type) a;
select evsource.run_projection('late');
select evsource.create_projection('new', 'evsource.fold_count', types => '{Counted}', start => 'now', mode => 'manual');
select evsource.truncate_stream('s-2', 2);

\c :home
set client_min_messages = warning;
drop database evsource_truncate_applied;
