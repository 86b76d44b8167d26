/*
 * jobs.c - what there is to do for a team.
 *
 * The list is read again when evs_wakeup_changed() was called for it, which tells
 * every session that evsource.projections has changed, or when that was dropped.
 */
#include "evsource.h"

#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "jobs.h"
#include "rebuild.h"
#include "relations.h"

static bool have_changed = true;

/* the tables that the list depends on, as they were when it was read */
static Oid	tables[2];

static void
relation_changed(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == tables[0] || relid == tables[1])
		have_changed = true;
}

void
evs_jobs_init(void)
{
	evs_relations_watch(relation_changed);
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
	List	   *rebuilds;
	ListCell   *cell;

	/* what changes from here on is for the next time */
	have_changed = false;
	tables[0] = evs_catalog()->projections;
	tables[1] = evs_catalog()->store;
	PushActiveSnapshot(GetTransactionSnapshot());
	units = evs_async_units();
	rebuilds = evs_rebuilds_requested();
	PopActiveSnapshot();

	jobs->context = AllocSetContextCreate(TopMemoryContext, "evsource jobs",
										  ALLOCSET_SMALL_SIZES);
	jobs->count = 0;
	jobs->jobs = MemoryContextAlloc(jobs->context,
									sizeof(EvsJob) * Max(1, list_length(units) + list_length(rebuilds)));
	foreach(cell, units)
	{
		EvsAsyncUnit *unit = lfirst(cell);

		add(jobs, &before, EVS_JOB_APPLY, unit->projection, unit->partition);
	}
	foreach(cell, rebuilds)
		add(jobs, &before, EVS_JOB_REBUILD, lfirst(cell), 0);
	if (before.context != NULL)
		MemoryContextDelete(before.context);
}
