/*
 * jobs.c - what there is to do for a team.
 *
 * The list is read again when evs_wakeup_changed() was called for it, which tells
 * every session that evsource.projections has changed, or when that was dropped.
 *
 * Which of the jobs has something to do when the log has grown is found out for
 * all of them together, by one look at the new events: a transaction each, with
 * its checkpoint, would be the dearer the more of them want something else.
 */
#include "evsource.h"

#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "jobs.h"
#include "rebuild.h"
#include "relations.h"
#include "scan.h"
#include "wakeup.h"

/* ms until it is written down how far the log has nothing for a job */
#define WRITE_INTERVAL	1000

/* more events than so many (positions) are looked at by each job itself */
#define MANY_EVENTS		1000

/* so many jobs are written down in one transaction, which has a lock or two for each */
#define MANY_JOBS		100

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

static EvsJob *
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
	return job;
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

		add(jobs, &before, EVS_JOB_APPLY, unit->projection, unit->partition)->filter =
			evs_filter_copy(jobs->context, &unit->filter);
	}
	foreach(cell, rebuilds)
		(void) add(jobs, &before, EVS_JOB_REBUILD, lfirst(cell), 0);
	evs_rebuild_keep(rebuilds);
	if (before.context != NULL)
		MemoryContextDelete(before.context);
}

/* ---- which of them the log has something for ---- */

static int64
looked_up_to(const EvsJob *job)
{
	return Max(job->seen, job->pacing.position);
}

static bool
is_choosy(const EvsJob *job)
{
	return job->filter.ncategories > 0 || job->filter.ntypes > 0 || job->filter.partitions > 1;
}

/* Is it time to write down how far that is? */
static bool
is_to_be_written(const EvsJob *job)
{
	return evs_clock_is_set(job->write_at) &&
		(evs_clock_is_over(job->write_at) ||
		 (!job->locked && evs_wakeup_is_awaited(job->projection)));
}

/* Look at these events; those that want none of them have seen them then. */
static void
show_events(EvsJobs *jobs, int64 after, int64 upto)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EvsScan    *scan = evs_scan_log(after, upto, NULL, snapshot);
	EvsEvent	event;

	evs_scan_as_stored(scan);
	while (evs_scan_next(scan, &event))
	{
		for (int i = 0; i < jobs->count; i++)
		{
			EvsJob	   *job = &jobs->jobs[i];

			if (job->idle && looked_up_to(job) < event.position &&
				evs_filter_accepts(&job->filter, &event))
				job->idle = false;
		}
	}
	evs_scan_end(scan);
	UnregisterSnapshot(snapshot);
}

void
evs_jobs_wake(EvsJobs *jobs, int64 safe)
{
	int64		after = safe;

	for (int i = 0; i < jobs->count; i++)
	{
		EvsJob	   *job = &jobs->jobs[i];

		if (!job->idle || looked_up_to(job) >= safe)
			continue;
		if (!is_choosy(job) || safe - looked_up_to(job) > MANY_EVENTS)
			job->idle = false;
		else
			after = Min(after, looked_up_to(job));
	}
	if (after < safe)
		show_events(jobs, after, safe);

	for (int i = 0; i < jobs->count; i++)
	{
		EvsJob	   *job = &jobs->jobs[i];

		if (!job->idle)
			continue;
		job->seen = Max(job->seen, safe);
		if (job->seen <= job->pacing.position)
			job->write_at = EVS_NO_TIME;
		else if (!evs_clock_is_set(job->write_at))
		{
			job->write_at = evs_clock_in(WRITE_INTERVAL);
			job->locked = false;
		}
		job->nothing = is_to_be_written(job);
		if (job->nothing)
			job->idle = false;
	}
}

/* What came of it. */
static void
take_note(EvsJob *job, const EvsAsyncPass *pass)
{
	job->locked = pass->outcome == EVS_ASYNC_LOCKED;
	switch (pass->outcome)
	{
		case EVS_ASYNC_PASSED:
			job->pacing.position = pass->position;
			job->write_at = EVS_NO_TIME;
			job->idle = true;
			break;
		case EVS_ASYNC_HELD:
			/* who has it will move it on; who waits for it is not put off */
			job->idle = !evs_wakeup_is_awaited(job->projection);
			job->write_at = evs_clock_in(WRITE_INTERVAL);
			break;
		case EVS_ASYNC_LOCKED:
			/* a worker that waits for the row does nothing for the others */
			job->idle = true;
			job->write_at = evs_clock_in(WRITE_INTERVAL);
			break;
		case EVS_ASYNC_NOT_PASSED:
			break;
	}
}

void
evs_jobs_write(EvsJobs *jobs, bool (*may_take) (int number))
{
	int			next = 0;

	while (next < jobs->count)
	{
		EvsAsyncPass passes[MANY_JOBS];
		int			numbers[MANY_JOBS];
		int			count = 0;

		for (; next < jobs->count && count < MANY_JOBS; next++)
		{
			EvsJob	   *job = &jobs->jobs[next];

			if (job->idle)
				job->nothing = false;
			if (!job->nothing || !may_take(next))
				continue;
			job->nothing = false;
			passes[count].projection = job->projection;
			passes[count].partition = job->partition;
			numbers[count++] = next;
		}
		if (count == 0)
			break;
		evs_async_pass(passes, count);
		for (int i = 0; i < count; i++)
			take_note(&jobs->jobs[numbers[i]], &passes[i]);
	}
}

bool
evs_jobs_are_up_to(const EvsJobs *jobs, int64 safe)
{
	for (int i = 0; i < jobs->count; i++)
	{
		const EvsJob *job = &jobs->jobs[i];

		if (job->idle && (looked_up_to(job) < safe || is_to_be_written(job)))
			return false;
	}
	return true;
}
