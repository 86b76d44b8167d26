/*
 * capture_registry.c - whose rights a capture has: evsource.captures.
 *
 * A trigger's arguments prove nothing: whoever may create a trigger can write anything
 * there.  So a capture is registered: by capture_table(), and when a trigger is
 * created by hand (capture_guard.c), both for a role that the caller can act as.  The
 * record says for which table and which arguments; a trigger that fires without one
 * is refused.  So it does not matter how the trigger came to be, nor whose the table
 * has become since.
 *
 * Triggers of partitions come from the table that they are part of: its record counts.
 */
#include "capture.h"

#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "barrier.h"
#include "query.h"

static Datum
argument_array(char *const *arguments, int count)
{
	Datum	   *words = palloc(Max(count, 1) * sizeof(Datum));

	for (int i = 0; i < count; i++)
		words[i] = CStringGetTextDatum(arguments[i]);
	return PointerGetDatum(construct_array(words, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* The table, and those that it is a partition of. */
static Datum
table_and_ancestors(Oid relid)
{
	List	   *oids = list_make1_oid(relid);
	Datum	   *datums;
	ListCell   *cell;
	int			count = 0;

	if (get_rel_relispartition(relid))
		oids = list_concat(oids, get_partition_ancestors(relid));
	datums = palloc(list_length(oids) * sizeof(Datum));
	foreach(cell, oids)
		datums[count++] = ObjectIdGetDatum(lfirst_oid(cell));
	return PointerGetDatum(construct_array(datums, count, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

/* The newest records count: so do the triggers, which are catalogued. */
Oid
evs_capture_registered(Oid relid, char *const *arguments, int count)
{
	static EvsQuery find = {
		"select c.registrant::pg_catalog.oid from evsource.captures c"
		" where c.relation::pg_catalog.oid = any ($1) and c.arguments = $2"
		" and c.registrant::pg_catalog.oid <> 0 limit 1",
		2, {OIDARRAYOID, TEXTARRAYOID}, SPI_OK_SELECT
	};
	Datum		values[] = {table_and_ancestors(relid), argument_array(arguments, count)};

	return DatumGetObjectId(evs_query_value_latest(&find, values, NULL, ObjectIdGetDatum(InvalidOid)));
}

void
evs_capture_register(Oid relid, char *const *arguments, int count, Oid registrant)
{
	/* and what is left of tables that are no longer there */
	static EvsQuery forget = {
		"delete from evsource.captures c"
		" where (c.relation::pg_catalog.oid = $1 and c.arguments = $2)"
		" or not exists (select from pg_catalog.pg_class k where k.oid = c.relation::pg_catalog.oid)",
		2, {OIDOID, TEXTARRAYOID}, SPI_OK_DELETE
	};
	static EvsQuery add = {
		"insert into evsource.captures (relation, arguments, registrant)"
		" values ($1::evsource._table_name, $2, $3::evsource._role_name)",
		3, {OIDOID, TEXTARRAYOID, OIDOID}, SPI_OK_INSERT
	};
	Datum		values[] = {
		ObjectIdGetDatum(relid), argument_array(arguments, count), ObjectIdGetDatum(registrant)
	};

	(void) evs_query_run(&forget, values, NULL);
	(void) evs_query_run(&add, values, NULL);
}

void
evs_capture_unregister(Oid relid)
{
	static EvsQuery forget = {
		"delete from evsource.captures c where c.relation::pg_catalog.oid = $1",
		1, {OIDOID}, SPI_OK_DELETE
	};
	Datum		values[] = {ObjectIdGetDatum(relid)};

	(void) evs_query_run(&forget, values, NULL);
}

void
evs_capture_require_seen(Oid relid)
{
	static EvsQuery count = {
		"select count(*) from evsource.captures c where c.relation::pg_catalog.oid = $1",
		1, {OIDOID}, SPI_OK_SELECT
	};
	Datum		values[] = {ObjectIdGetDatum(relid)};
	Datum		none = Int64GetDatum(0);

	evs_require_seen("capture",
					 DatumGetInt64(evs_query_value(&count, values, NULL, InvalidSnapshot, none)) ==
					 DatumGetInt64(evs_query_value_latest(&count, values, NULL, none)));
}

/* What a command has dropped takes its records with it. */
void
evs_capture_forget_dropped(void)
{
	static EvsQuery forget = {
		"delete from evsource.captures c using pg_catalog.pg_event_trigger_dropped_objects() d"
		" where (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.relation::pg_catalog.oid"
		"  and d.objsubid = 0)"
		" or (d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass"
		"  and pg_catalog.to_regclass(pg_catalog.format('%I.%I', d.address_names[1], d.address_names[2]))"
		"   = c.relation::pg_catalog.oid"
		"  and not exists (select from pg_catalog.pg_trigger t"
		"   where t.tgrelid = c.relation::pg_catalog.oid and t.tgfoid = 'evsource.capture'::pg_catalog.regproc"
		"   and evsource._trigger_arguments(t.oid) = c.arguments))",
		0, {0}, SPI_OK_DELETE
	};

	(void) evs_query_run(&forget, NULL, NULL);
}
