/*
 * trace.c - which event explains that a row of a replay is not what is stored?
 *
 * Two more replays answer that, each into an empty read model.  The first goes
 * by batches and looks at the rows after each of them: when was a row for the
 * last time what is stored, and in which batch was it something else from then
 * on; or, if it never was, in which batch was it written last?  The second goes
 * to that batch and through it event by event.
 *
 * So it takes two replays, a number of looks, and the events of one batch a row,
 * and remembers one batch a row, whatever the length of the log.  Where a batch is
 * more than an event, what comes and goes in the midst of one is only seen if that
 * is the one that the second replay goes through.
 */
#include "evsource.h"

#include "nodes/pg_list.h"

#include "trace.h"

/* so often the first one looks at most, in each part */
#define LOOKS			1000

/* One replay. */
typedef struct Pass
{
	EvsTrace   *trace;
	EvsTrial   *trial;
	EvsProjection *projection;
	EvsStandin *standin;
	int			part;			/* that is replayed */
	int64		after;			/* second pass: the batch that is gone through */
} Pass;

static Pass *
begin_pass(EvsTrial *trial, EvsTrace *trace)
{
	Pass	   *pass = palloc0(sizeof(Pass));

	pass->trace = trace;
	pass->trial = trial;
	pass->projection = trace->prepare(trace, &pass->standin);
	evs_trial_look_as(trial, trace->trial);
	trial->argument = pass;
	return pass;
}

static void
replay(Pass *pass, int64 after, int64 upto)
{
	evs_trial_replay_part(pass->trial, pass->projection, pass->standin, pass->part, after, upto);
}

/* ---- by batches ---- */

static void
look_at_batch(void *argument, int64 after, int64 upto)
{
	Pass	   *pass = argument;
	ListCell   *cell;

	foreach(cell, pass->trace->rows)
	{
		EvsTraced  *row = lfirst(cell);
		bool		as_stored;

		if (!pass->trace->look(pass->trace, row, &as_stored))
			continue;
		if (as_stored)
		{
			row->is_missing = true;
			row->upto = 0;
		}
		else if (!row->is_missing || row->upto == 0)
		{
			row->part = pass->part;
			row->after = after;
			row->upto = upto;
		}
	}
}

static void
go_by_batches(EvsTrial *trial, void *argument)
{
	Pass	   *pass = begin_pass(trial, argument);
	ListCell   *cell;

	foreach(cell, pass->trace->rows)
	{
		EvsTraced  *row = lfirst(cell);

		row->is_missing = !row->is_stored;
		row->position = row->upto = 0;
	}
	trial->batch = pass->trace->trial->events / LOOKS + 1;
	trial->applied = look_at_batch;
	for (; pass->part < trial->nparts; pass->part++)
		replay(pass, 0, trial->parts[pass->part]);
}

/* ---- event by event ---- */

static bool
is_in_batch(const Pass *pass, const EvsTraced *row)
{
	return row->upto > 0 && row->part == pass->part && row->after == pass->after;
}

static void
look_at_event(void *argument, int64 after, int64 upto)
{
	Pass	   *pass = argument;
	ListCell   *cell;

	foreach(cell, pass->trace->rows)
	{
		EvsTraced  *row = lfirst(cell);
		bool		as_stored;

		if (!is_in_batch(pass, row) || !pass->trace->look(pass->trace, row, &as_stored))
			continue;
		if (as_stored)
		{
			row->is_missing = true;
			row->position = 0;
		}
		else if (!row->is_missing || row->position == 0)
			row->position = upto;
	}
}

/* Find the next batch of the part that decides about a row: where it begins and ends. */
static bool
next_batch(const Pass *pass, int64 done, int64 *after, int64 *upto)
{
	ListCell   *cell;
	bool		found = false;

	foreach(cell, pass->trace->rows)
	{
		EvsTraced  *row = lfirst(cell);

		if (row->upto <= done || row->part != pass->part || (found && row->after >= *after))
			continue;
		*after = row->after;
		*upto = row->upto;
		found = true;
	}
	return found;
}

static void
go_through_batch(Pass *pass, int64 after, int64 upto)
{
	ListCell   *cell;

	pass->after = after;
	foreach(cell, pass->trace->rows)
	{
		bool		as_stored;

		if (is_in_batch(pass, lfirst(cell)))
			(void) pass->trace->look(pass->trace, lfirst(cell), &as_stored);
	}
	pass->trial->batch = 1;
	pass->trial->applied = look_at_event;
	replay(pass, after, upto);
	pass->trial->batch = 0;
	pass->trial->applied = NULL;
}

/* The last part that has such a batch, or -1. */
static int
last_part(const EvsTrace *trace)
{
	int			last = -1;
	ListCell   *cell;

	foreach(cell, trace->rows)
	{
		EvsTraced  *row = lfirst(cell);

		if (row->upto > 0)
			last = Max(last, row->part);
	}
	return last;
}

static void
go_by_events(EvsTrial *trial, void *argument)
{
	Pass	   *pass = begin_pass(trial, argument);
	int			last = last_part(pass->trace);

	for (; pass->part <= last; pass->part++)
	{
		int64		done = 0;
		int64		after = 0;
		int64		upto = 0;

		while (next_batch(pass, done, &after, &upto))
		{
			replay(pass, done, after);
			go_through_batch(pass, after, upto);
			done = upto;
		}
		/* what the next part finds */
		if (pass->part < last)
			replay(pass, done, trial->parts[pass->part]);
	}
}

void
evs_trace(EvsTrace *trace)
{
	if (trace->rows == NIL)
		return;
	evs_trial_run("evsource.verify_projection()", go_by_batches, trace);
	evs_trial_run("evsource.verify_projection()", go_by_events, trace);
}
