/*
 * guard_used.c - what a projection, an event type or a decider uses must not be
 * dropped under it.
 *
 * Functions and tables are stored by the identity that PostgreSQL gives to dropped
 * objects, too, but for the quotes, which depend on the session.  Any command can
 * drop them, by CASCADE, so the event trigger evsource_guard_drops (register.sql)
 * comes after all of them; it is in C, with a plan that is kept, since every DROP of
 * a temporary table pays for it.
 *
 * What others have committed by now counts, whatever the transaction's snapshot:
 * who registers something holds a lock on what it uses until it commits, see
 * resolve.c, so a drop comes either before, and is noticed there, or after.
 */
#include "evsource.h"

#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "guard.h"
#include "query.h"

static EvsQuery first_used = {
	"select d.object_type || ' ' || d.object_identity, replace(u.what, '_', ' '), u.name,"
	" format('evsource.drop_%s(%L)', u.what, u.name)"
	" from pg_event_trigger_dropped_objects() d"
	" join (select 'projection', p.projection,"
	"  array[p.handler, p.key, p.on_reset, p.is_compatible, p.migrate_state], p.tables"
	"  from evsource.projections p"
	"  union all select 'event_type', t.type, array[t.validator, t.upcaster], null from evsource.event_types t"
	"  union all select 'decider', c.decider, array[c.handler], null from evsource.deciders c"
	" ) u (what, name, functions, tables)"
	" on d.object_type in ('function', 'table') and exists ("
	"  select from unnest(case d.object_type when 'table' then u.tables else u.functions end) f"
	"  where replace(f, '\"', '') = replace(d.object_identity, '\"', '')"
	"   and parse_ident(f, false) = d.address_names)"
	" order by u.what desc, u.name, d.object_identity limit 1",
	0, {0}, SPI_OK_SELECT
};

/*
 * evsource._guard_drops() returns event_trigger
 *
 * Errors: 2BP01 when something that was dropped is used.
 */
PG_FUNCTION_INFO_V1(evsource_guard_drops);
Datum
evsource_guard_drops(PG_FUNCTION_ARGS)
{
	EvsQueryResult result;
	Snapshot	snapshot;

	(void) evs_guard_event(fcinfo, "the event trigger evsource_guard_drops");
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	evs_query_begin(&first_used, NULL, NULL, snapshot, &result);
	if (result.count > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop %s: %s \"%s\" uses it", evs_query_text(&result, 0, 1),
						evs_query_text(&result, 0, 2), evs_query_text(&result, 0, 3)),
				 errhint("Drop the %s first: %s.", evs_query_text(&result, 0, 2),
						 evs_query_text(&result, 0, 4))));
	evs_query_end(&result);
	UnregisterSnapshot(snapshot);
	PG_RETURN_NULL();
}
