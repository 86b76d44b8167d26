-- Load, decide, append; whoever was faster is no reason to give up: the script
-- runs itself again.
--
--     psql -v account=account-1 -v amount=30 -f withdraw.sql
\set ON_ERROR_STOP off
select coalesce(max(version), 0) as version,
    coalesce(sum((data->>'amount')::numeric), 0) as balance,
    coalesce(sum((data->>'amount')::numeric), 0) >= :amount as enough
from evsource.read_stream(:'account') \gset

\if :enough
    select position
    from evsource.append(:'account', 'Withdrawn', jsonb_build_object('amount', - :amount), expected_version => :version) \gset
    select :'ERROR'::boolean as failed, :'SQLSTATE' = 'VE001' as moved_on \gset
    \if :moved_on
        \ir withdraw.sql
    \elif :failed
        \warn the withdrawal failed
    \else
        \ir balance.sql
    \endif
\else
    \warn :account has :balance
\endif
