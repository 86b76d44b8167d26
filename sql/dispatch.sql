-- dispatch.sql: what measures the dispatcher.

create function evsource._noop(event evsource.event) returns void
    language c parallel safe
    as 'MODULE_PATHNAME', 'evsource_noop';
comment on function evsource._noop(evsource.event) is
'Internal: an event handler that does nothing, to measure what dispatching an event costs.';
