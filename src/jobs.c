/*
 * jobs.c - what there is to do for a team.
 *
 * The list is read again when a table that it comes from has changed, which a
 * trigger tells every session (see evsource._changed), or has been dropped.
 */
#include "evsource.h"

#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "jobs.h"

static bool have_changed = true;

/* the tables that the list depends on, as they were when it was read */
static Oid	tables[3];

static void
relation_changed(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == tables[0] || relid == tables[1] || relid == tables[2])
		have_changed = true;
}

void
evs_jobs_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}

bool
evs_jobs_have_changed(void)
{
	return have_changed;
}

static bool
same_job(const EvsJob *a, const EvsJob *b)
{
	return a->kind == b->kind && a->partition == b->partition &&
		strcmp(a->projection, b->projection) == 0;
}

static void
add(EvsJobs *jobs, const EvsJobs *before, EvsJobKind kind, const char *projection,
	int partition)
{
	EvsJob	   *job = &jobs->jobs[jobs->count++];

	memset(job, 0, sizeof(EvsJob));
	job->kind = kind;
	strlcpy(job->projection, projection, sizeof(job->projection));
	job->partition = partition;
	for (int i = 0; i < before->count; i++)
	{
		if (same_job(job, &before->jobs[i]))
			job->pacing = before->jobs[i].pacing;
	}
}

void
evs_jobs_read(EvsJobs *jobs)
{
	EvsJobs		before = *jobs;
	List	   *units;
	ListCell   *cell;

	/* what changes from here on is for the next time */
	have_changed = false;
	tables[0] = evs_catalog()->projections;
	tables[1] = evs_catalog()->store;
	tables[2] = get_relname_relid("rebuilds", evs_catalog()->schema);
	PushActiveSnapshot(GetTransactionSnapshot());
	units = evs_async_units();
	PopActiveSnapshot();

	jobs->context = AllocSetContextCreate(TopMemoryContext, "evsource jobs",
										  ALLOCSET_SMALL_SIZES);
	jobs->count = 0;
	jobs->jobs = MemoryContextAlloc(jobs->context,
									sizeof(EvsJob) * Max(1, list_length(units)));
	foreach(cell, units)
	{
		EvsAsyncUnit *unit = lfirst(cell);

		add(jobs, &before, EVS_JOB_APPLY, unit->projection, unit->partition);
	}
	if (before.context != NULL)
		MemoryContextDelete(before.context);
}
