/*
 * types_survey.c - what a new version of an event type changes: is such an event
 * stored, where are those that are read otherwise from now on, and who has applied
 * them?
 *
 * The log is looked at in two parts: most of it before anybody has to wait, the
 * rest behind the barrier.
 *
 * Which categories are concerned is written down for good, and every session
 * knows it by heart.  A stream whose name has no "-", or is a UUID, is a category of
 * its own: there may be as many as streams.  Beyond some number it is only
 * written down that there are many.  Then snapshots may go for nothing, but not
 * those of projections that name their categories: of a category that some
 * projection names it is always known whether it is concerned.
 */
#include "types_survey.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "barrier.h"
#include "horizon.h"
#include "query.h"
#include "registry.h"
#include "text_array.h"

/* more categories than these, that no projection names, are all the others */
#define MAX_CATEGORIES	100

static EvsQuery find_stored = {
	"select from evsource.events e"
	" where e.type = $1 and coalesce(e.schema_version, 1) between $2 and $3"
	" and e.position > $4 and e.position <= $5 limit 1",
	5, {TEXTOID, INT4OID, INT4OID, INT8OID, INT8OID}, SPI_OK_SELECT
};

/*
 * Who has applied events of the type that are of an earlier version, at these
 * positions.  Appends, and a rebuild, may have brought it to the end of the log.
 */
static EvsQuery find_concerned = {
	"select p.projection from evsource.projections p"
	" left join lateral (select greatest(c.position,"
	"   (select max(n.position) from evsource.partitions n where n.projection = p.projection)) as position"
	"  from evsource.checkpoints c where c.projection = p.projection"
	"  and not (p.mode = 'inline' and p.state = 'active')"
	"  and not exists (select from evsource.rebuilds r where r.projection = p.projection)) applied on true"
	" where (not p.stale or exists (select from evsource.rebuilds r where r.projection = p.projection))"
	" and (p.types is null or $1 = any (p.types))"
	" and exists (select from evsource.events e"
	"  where e.type = $1 and coalesce(e.schema_version, 1) < $2"
	"  and e.position > greatest(p.start_after, $3) and e.position <= least(applied.position, $4)"
	"  and (p.categories is null or evsource.category(e.stream) = any (p.categories)))",
	4, {TEXTOID, INT4OID, INT8OID, INT8OID}, SPI_OK_SELECT
};

/* The categories that projections name. */
static EvsQuery find_named = {
	"select distinct c from evsource.projections p, unnest(p.categories) c order by 1",
	0, {0}, SPI_OK_SELECT
};

/*
 * In which categories are events of the type stored that are of an earlier version?
 * All that projections name, and so many others.
 */
static EvsQuery find_categories = {
	"with stored as ("
	"  select distinct evsource.category(e.stream) as category from evsource.events e"
	"  where e.type = $1 and coalesce(e.schema_version, 1) < $2"
	"   and e.position > $3 and e.position <= $4)"
	" select category from stored where category = any ($5)"
	" union all (select category from stored where category <> all ($5) limit $6)",
	6, {TEXTOID, INT4OID, INT8OID, INT8OID, TEXTARRAYOID, INT4OID}, SPI_OK_SELECT
};

static EvsQuery note_change = {
	"with found as ("
	"  select distinct c as category from unnest($2) c),"
	" many as ("
	"  select from found where category <> all ($3) having count(*) > $4),"
	" noted (category, but_not) as ("
	"  select category, null::text[] from found where not exists (select from many)"
	"  union all"
	"  select null, array(select c from unnest($3) c where c <> all ($2) order by 1) from many)"
	" insert into evsource.event_type_changes (type, category, but_not, change)"
	" select $1, n.category, n.but_not, 1 + coalesce("
	"   (select max(c.change) from evsource.event_type_changes c"
	"    where c.type = $1 and c.category is not distinct from n.category), 0)"
	" from noted n",
	4, {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, INT4OID}, SPI_OK_INSERT
};

/* Is an event of the type stored, of these versions, at these positions? */
static bool
is_stored_at(const text *type, int from_version, int to_version, int64 after, int64 upto)
{
	Datum		values[] = {
		PointerGetDatum(type), Int32GetDatum(from_version), Int32GetDatum(to_version),
		Int64GetDatum(after), Int64GetDatum(upto)
	};

	return evs_query_run(&find_stored, values, NULL) > 0;
}

static void
look(EvsTypeSurvey *survey, int64 after, int64 upto)
{
	const text *type = survey->type;

	survey->found = survey->found || (survey->first <= survey->last &&
									  is_stored_at(type, survey->first, survey->last, after, upto));
	if (survey->below > 1 && survey->changes)
	{
		Datum		values[] = {
			PointerGetDatum(type), Int32GetDatum(survey->below),
			Int64GetDatum(after), Int64GetDatum(upto),
			evs_text_array_of_names(survey->named), Int32GetDatum(MAX_CATEGORIES + 1)
		};
		List	   *categories = evs_query_texts(&find_categories, values, NULL);

		if (categories == NIL)
			return;
		survey->found_below = true;
		survey->categories = list_concat(survey->categories, categories);
		survey->readers = list_concat(survey->readers,
									  evs_query_texts(&find_concerned, values, NULL));
	}
	else if (survey->below > 1)
		survey->found_below = survey->found_below ||
			is_stored_at(type, 1, survey->below - 1, after, upto);
}

void
evs_type_surveys(EvsTypeSurvey *surveys, int count)
{
	int64		safe = evs_horizon_safe_position();
	List	   *named = evs_query_texts(&find_named, NULL, NULL);

	for (int i = 0; i < count; i++)
	{
		surveys[i].named = named;
		look(&surveys[i], 0, safe);
	}
	evs_barrier("change event type", text_to_cstring(surveys[0].type));
	for (int i = 0; i < count; i++)
		look(&surveys[i], safe, PG_INT64_MAX);
}

void
evs_type_note_changes(const EvsTypeSurvey *survey)
{
	Datum		values[] = {
		PointerGetDatum(survey->type), evs_text_array_of_names(survey->categories),
		evs_text_array_of_names(survey->named), Int32GetDatum(MAX_CATEGORIES)
	};
	ListCell   *cell;

	(void) evs_query_run(&note_change, values, NULL);
	foreach(cell, survey->readers)
		evs_registry_mark_stale(lfirst(cell), true);
}
