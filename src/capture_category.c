/*
 * capture_category.c - whose a category is.
 *
 * An event does not say which table it is of: its category does.  If two tables of one
 * name, in two schemas, come into one category, rows of both are told in one stream,
 * and the truncate of one empties the copy of the other; and what the application
 * appends to a category has other versions than it expects when rows come there.  So a
 * table that is captured into a category which nobody has named must have it alone.
 *
 * Who captures into a category holds a lock on it until the end of the transaction, so
 * that two who do so at the same time see each other.
 */
#include "capture.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "query.h"

static char *
one_text(EvsQuery *query, Datum *values)
{
	Datum		found = evs_query_value_latest(query, values, NULL, (Datum) 0);

	return DatumGetPointer(found) == NULL ? NULL : TextDatumGetCString(found);
}

/* Another table that is captured into the category, or NULL. */
static char *
find_other_table(Relation table, const char *category)
{
	static EvsQuery find = {
		"select pg_catalog.format('%I.%I', n.nspname, c.relname)"
		" from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid"
		" join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
		" where t.tgfoid = $1 and t.tgrelid <> $2 and t.tgparentid = 0 and t.tgtype & 1 = 1"
		" and (evsource._trigger_arguments(t.oid))[1] = $3 order by 1 limit 1",
		3, {OIDOID, OIDOID, TEXTOID}, SPI_OK_SELECT
	};
	Datum		values[] = {
		ObjectIdGetDatum(evs_catalog()->capture), ObjectIdGetDatum(RelationGetRelid(table)),
		CStringGetTextDatum(category)
	};

	return one_text(&find, values);
}

/* The type of the category's first event, if it is none of captured rows; else NULL. */
static char *
find_foreign_type(const EvsCapturePlan *plan)
{
	static EvsQuery find = {
		"select f.type from (select e.type from evsource.events e"
		" where evsource.category(e.stream) = $1 order by e.position limit 1) f"
		" where f.type not in ($2, $3, $4, $5)",
		5, {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}, SPI_OK_SELECT
	};
	Datum		values[] = {
		CStringGetTextDatum(plan->category), PointerGetDatum(plan->inserted),
		PointerGetDatum(plan->updated), PointerGetDatum(plan->deleted),
		PointerGetDatum(plan->truncated)
	};

	return one_text(&find, values);
}

/* A category that the table would have alone: its name, with the schema's before it. */
static char *
suggest(Relation table)
{
	char	   *name = psprintf("%s_%s", get_namespace_name(RelationGetNamespace(table)),
								RelationGetRelationName(table));

	for (char *c = name; *c != '\0'; c++)
		if (*c == '-')
			*c = '_';
	return quote_literal_cstr(name);
}

static void
report(Relation table, const EvsCapturePlan *plan, bool is_named, const char *detail)
{
	if (is_named)
		ereport(NOTICE,
				(errmsg("table \"%s\" is not alone in category \"%s\"",
						RelationGetRelationName(table), plan->category),
				 errdetail_internal("%s", detail),
				 errhint("Rows with equal keys share a stream. Consumers of the category must find out which table an event of type \"%s\" is of.",
						 text_to_cstring(plan->truncated))));
	else
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("category \"%s\" of table \"%s\" is in use",
						plan->category, RelationGetRelationName(table)),
				 errdetail_internal("%s", detail),
				 errhint("Name another category: evsource.capture_table(..., category => %s). If they are to share it, name this one.",
						 suggest(table))));
}

bool
evs_capture_claim_category(Relation table, const EvsCapturePlan *plan, bool is_named, bool is_own)
{
	char	   *other;
	char	   *type;

	evs_capture_require_seen(RelationGetRelid(table));
	LockDatabaseObject(evs_catalog()->captures,
					   DatumGetUInt32(hash_any((const unsigned char *) plan->category,
											   strlen(plan->category))),
					   0, ExclusiveLock);
	other = find_other_table(table, plan->category);
	if (other != NULL)
		report(table, plan, is_named, psprintf("Table %s is captured into it.", other));
	else if (!is_own && (type = find_foreign_type(plan)) != NULL)
		report(table, plan, is_named,
			   psprintf("It has events of type \"%s\", which no capture has written.", type));
	return other == NULL;
}
