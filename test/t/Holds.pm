# What a database holds of evsource, as text, to be compared with another's.

package Holds;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

our @EXPORT = qw(holds same_ok);

# Only the row of pg_database that the store is in may differ.  Members and
# rights include what the extension's own objects are and may.
my $query = q{
select 'event', r::text from evsource.read_all(0, null) r
union all select 'row', e::text from evsource.events e
union all select 'stream', s::text from evsource.streams s
union all select 'projection', p::text from evsource.projections p
union all select 'checkpoint', c::text from evsource.checkpoints c
union all select 'event type', t::text from evsource.event_types t
union all select 'event type change', t::text from evsource.event_type_changes t
union all select 'stored', r::text from evsource.events_raw r
union all select 'decider', d::text from evsource.deciders d
union all select 'command', c::text from evsource.commands c
union all select 'snapshot', s::text from evsource.snapshots s
union all select 'subscription', s::text from evsource.subscriptions s
union all select 'cursor', c::text from evsource.cursors c
union all select 'subscription_dead_letter', d::text from evsource.subscription_dead_letters d
union all select 'published', p::text from evsource.published p
union all select 'origin', origin::text from evsource.store
union all select 'status', (projection, mode, state, position, lag, event_count, stale)::text from evsource.projection_status
union all select 'state', s::text from evsource.states s
union all select 'sequence', (last_value, is_called)::text from evsource.position_seq
union all select 'trigger', (tgrelid::regclass, tgname, tgenabled)::text from pg_trigger where tgrelid::regclass::text ~ '^evsource'
union all select 'event trigger', (evtname, evtenabled)::text from pg_event_trigger
union all select 'index', pg_get_indexdef(indexrelid) from pg_index where indrelid::regclass::text ~ '^evsource'
union all select 'member', pg_describe_object(classid, objid, 0) from pg_depend where refclassid = 'pg_extension'::regclass and deptype = 'e'
    and refobjid = (select oid from pg_extension where extname = 'evsource')
union all select 'right', (c.oid::regclass, x.grantee::regrole, x.privilege_type)::text
    from pg_class c, aclexplode(coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))) x where relnamespace = 'evsource'::regnamespace
union all select 'right', (attrelid::regclass, attname, x.grantee::regrole, x.privilege_type)::text
    from pg_attribute, aclexplode(attacl) x where attrelid = 'evsource.events'::regclass
union all select 'right', (p.oid::regprocedure, x.grantee::regrole, x.privilege_type)::text
    from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x where pronamespace = 'evsource'::regnamespace
union all select 'right', (n.nspname, x.grantee::regrole, x.privilege_type)::text
    from pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x where nspname = 'evsource'
};

# Also the rows of these tables.
sub holds
{
	my ($node, $database, @tables) = @_;

	return $node->safe_psql($database,
		join("\n", $query, map { "union all select '$_', t::text from $_ t" } @tables) . "\norder by 1, 2");
}

# Show the lines that only one of them has.
sub same_ok
{
	my ($got, $wanted, $name) = @_;
	my %count;

	$count{$_}-- foreach split /\n/, $wanted;
	$count{$_}++ foreach split /\n/, $got;
	my @differences = map { ($count{$_} < 0 ? 'missing: ' : 'too much: ') . $_ } sort grep { $count{$_} } keys %count;
	ok(!@differences, $name) or diag(join "\n", splice @differences, 0, 20);
	return;
}

1;
