/*
 * missed.c - imported events that projections will not meet.
 *
 * What is imported is not dispatched.  Whoever follows the log meets it there.  An
 * active inline projection does not: with tables of its own it lacks the event from
 * now on.  (States of streams are folded from the log.)  And an event that comes in
 * behind those who follow, since the owner said so, is met by nobody.
 *
 * Such a projection is stale until it is rebuilt, and what was saved for it before is
 * not used any more.  A rebuild that is under way may have passed it, too: each such
 * event counts as a lapse, and who has read the projection before (registry.c), or has
 * begun to rebuild it (rebuild_row.c), finds another number.  Not in a log that is not
 * open: there nothing has been applied.
 *
 * No lock is taken but that of the row: an inline projection becomes active, or is
 * changed, behind the barrier, which waits for us; see evs_replay_settle().
 */
#include "evsource.h"

#include "miscadmin.h"

#include "missed.h"
#include "registry.h"
#include "scan.h"
#include "snapshots.h"
#include "table_snapshots.h"

typedef struct Watched
{
	EvsProjection *projection;
	bool		misses;			/* some of the rows */
	bool		behind;			/* some of those that came behind it */
} Watched;

struct EvsMissed
{
	List	   *projections;	/* of Watched */
};

EvsMissed *
evs_missed_begin(void)
{
	EvsMissed  *missed = palloc0(sizeof(EvsMissed));
	ListCell   *cell;

	foreach(cell, evs_registry_all_names())
	{
		EvsProjection *projection = evs_projection_load(lfirst(cell), true);
		Watched    *watched;

		if (projection == NULL)
			continue;
		watched = palloc0(sizeof(Watched));
		watched->projection = projection;
		missed->projections = lappend(missed->projections, watched);
	}
	return missed;
}

static bool
lives_by_dispatch(const EvsProjection *projection)
{
	return projection->mode == EVS_MODE_INLINE && projection->state == EVS_PROJECTION_ACTIVE &&
		projection->kind != EVS_KIND_FOLD;
}

void
evs_missed_note(EvsMissed *missed, const EvsEvent *row, bool behind)
{
	ListCell   *cell;

	foreach(cell, missed->projections)
	{
		Watched    *watched = lfirst(cell);
		const EvsProjection *projection = watched->projection;

		if (watched->behind || (watched->misses && !behind) ||
			!(behind || lives_by_dispatch(projection)) ||
			row->position <= projection->start_after ||
			!evs_filter_accepts(&projection->filter, row))
			continue;
		watched->misses = true;
		watched->behind = behind;
	}
}

/* States that are kept in rows go on; but they are not what the log makes of them. */
static void
forget_saved(const EvsProjection *projection)
{
	(void) evs_snapshot_lock(projection->name, NULL, EVS_SNAPSHOT_LOCK_OUT);
	if (projection->kind != EVS_KIND_FOLD)
		(void) evs_table_snapshots_clear(projection->name);
	else if (projection->key_kind == EVS_KEY_STREAM)
		(void) evs_snapshots_clear(projection->name, false);
	else
		evs_snapshots_mark_mixed(projection->name);
}

void
evs_missed_tell(EvsMissed *missed)
{
	ListCell   *cell;

	foreach(cell, missed->projections)
	{
		const Watched *watched = lfirst(cell);

		if (watched->misses)
			evs_registry_mark_stale(watched->projection->name, watched->behind);
		if (watched->behind)
			forget_saved(watched->projection);
	}
}
