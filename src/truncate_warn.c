/*
 * truncate_warn.c - projections that take events of streams whose beginning is gone.
 *
 * A new projection has nothing of the events that were truncated before it came, and
 * one that is altered has none of those that its filter did not take then.  Neither is
 * an error: what is left may be all that it is to have.  But somebody has to say so.
 */
#include "truncate_warn.h"

#include "catalog/pg_type.h"

#include "query.h"
#include "text_array.h"

/*
 * The streams of these categories (null: all), but not of those, whose beginning is gone,
 * though it may not have been before the projection's own.
 */
static EvsQuery find_streams = {
	"select t.stream from evsource.truncations t"
	" where ($2 is null or evsource.category(t.stream) = any ($2))"
	"  and ($3 is null or evsource.category(t.stream) <> all ($3))"
	"  and (select e.position from evsource.events e where e.stream = t.stream"
	"   order by e.version limit 1) > $1 + 1"
	" order by 1",
	3, {INT8OID, TEXTARRAYOID, TEXTARRAYOID}, SPI_OK_SELECT
};

/* Are all of them among the others?  None at all means every one there is. */
static bool
are_among(text *const *values, int count, text *const *others, int nothers)
{
	if (nothers == 0)
		return true;
	for (int i = 0; i < count; i++)
	{
		bool		found = false;

		for (int j = 0; j < nothers && !found; j++)
			found = evs_same_text(values[i], others[j]);
		if (!found)
			return false;
	}
	return count > 0;
}

void
evs_truncate_warn(const EvsProjection *projection, const EvsProjection *old)
{
	const EvsFilter *filter = &projection->filter;
	bool		same_types = old != NULL && projection->start_after >= old->start_after &&
		are_among(filter->types, filter->ntypes, old->filter.types, old->filter.ntypes);
	Datum		values[3] = {
		Int64GetDatum(projection->start_after),
		evs_text_array(filter->categories, filter->ncategories)
	};
	char		nulls[] = "   ";
	List	   *streams;

	if (same_types && are_among(filter->categories, filter->ncategories,
								old->filter.categories, old->filter.ncategories))
		return;
	if (filter->ncategories == 0)
		nulls[1] = 'n';

	/* of the categories that it had it has what there was of these types */
	if (same_types)
		values[2] = evs_text_array(old->filter.categories, old->filter.ncategories);
	else
		nulls[2] = 'n';
	streams = evs_query_texts(&find_streams, values, nulls);
	if (streams == NIL)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 old == NULL ?
			 errmsg("projection \"%s\" knows nothing of events that were truncated", projection->name) :
			 errmsg("projection \"%s\" takes more events now, but knows nothing of those that were truncated", projection->name),
			 errdetail_plural("%d stream that it takes events from has been truncated: \"%s\".",
							  "%d streams that it takes events from have been truncated; the first is \"%s\".",
							  list_length(streams), list_length(streams), (char *) linitial(streams)),
			 old == NULL ?
			 errhint("Only the projections that existed then include these events. To keep that, alter one of them.") :
			 0));
}
