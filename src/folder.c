/*
 * folder.c - call a projection's fold function, event after event.
 *
 * What a call leaves behind is forgotten at the next one, but for the state
 * that it returned.  To carry that across without copying it, calls take turns
 * with two memory contexts: each call runs in the one that holds neither its
 * argument nor anything that is still wanted.
 *
 * A state begins as {} and is never null, nor is an event: it makes no
 * difference whether the function is strict.
 */
#include "folder.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"

#include "event.h"
#include "handlers.h"
#include "pure_call.h"
#include "state_cache.h"
#include "text_array.h"

Jsonb *
evs_initial_state(void)
{
	/* a header that says "object of no pairs": nobody writes to it */
	static union
	{
		Jsonb		jsonb;
		char		bytes[VARHDRSZ + sizeof(uint32)];
	}			initial;

	if (initial.jsonb.root.header == 0)
	{
		SET_VARSIZE(&initial.jsonb, sizeof(initial.bytes));
		initial.jsonb.root.header = JB_FOBJECT;
	}
	return &initial.jsonb;
}

EvsFolder *
evs_folder_open(EvsProjection *projection)
{
	EvsFolder  *folder = palloc0(sizeof(EvsFolder));

	Assert(projection->kind == EVS_KIND_FOLD);
	folder->projection = projection;
	folder->generation = evs_state_cache_generation();
	fmgr_info(evs_handler_function(projection), &folder->flinfo);
	folder->routine = evs_fold_routine(folder->flinfo.fn_addr);
	if (folder->routine == NULL)
	{
		int			nargs = projection->npath > 0 ? 3 : 2;

		folder->fcinfo = palloc(SizeForFunctionCallInfo(nargs));
		InitFunctionCallInfoData(*folder->fcinfo, &folder->flinfo, nargs, InvalidOid, NULL, NULL);
		if (projection->npath > 0)
		{
			folder->fcinfo->args[2].value = evs_text_array(projection->path, projection->npath);
			folder->fcinfo->args[2].isnull = false;
		}
	}
	for (int i = 0; i < 2; i++)
		folder->contexts[i] = AllocSetContextCreate(CurrentMemoryContext, "evsource fold",
													ALLOCSET_DEFAULT_SIZES);
	return folder;
}

void
evs_folder_close(EvsFolder *folder)
{
	for (int i = 0; i < 2; i++)
		MemoryContextDelete(folder->contexts[i]);
	if (folder->fcinfo != NULL)
		pfree(folder->fcinfo);
	pfree(folder);
}

void
evs_folder_start(EvsFolder *folder, Jsonb *state)
{
	for (int i = 0; i < 2; i++)
		MemoryContextReset(folder->contexts[i]);
	folder->state = state;
	folder->expanded = NULL;
	if (folder->routine != NULL && folder->routine->expand != NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(folder->contexts[0]);

		folder->expanded = folder->routine->expand(state, folder->projection);
		MemoryContextSwitchTo(caller);
	}
}

/* Call the function in CurrentMemoryContext. */
static Jsonb *
call_function(EvsFolder *folder, const EvsEvent *event)
{
	FunctionCallInfo fcinfo = folder->fcinfo;
	EvsEvent   *events[] = {(EvsEvent *) event};
	EvsHandlerContext errors;
	PgStat_FunctionCallUsage usage;
	Datum		result;

	evs_handler_context_push(&errors, folder->projection, events, 1);
	fcinfo->args[0].value = JsonbPGetDatum(folder->state);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = evs_event_datum(event);
	fcinfo->args[1].isnull = false;
	fcinfo->isnull = false;
	pgstat_init_function_usage(fcinfo, &usage);
	result = evs_pure_call(fcinfo, EVS_PURE_STATE);
	pgstat_end_function_usage(&usage, true);

	if (fcinfo->isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("fold function %s of projection \"%s\" returned null",
						folder->projection->handler, folder->projection->name),
				 errhint("For an event that changes nothing, return the state that was passed.")));
	evs_handler_context_pop(&errors);
	return DatumGetJsonbP(result);
}

/* The same for a routine of ours, which may raise, too. */
static Jsonb *
call_routine(EvsFolder *folder, const EvsEvent *event)
{
	EvsEvent   *events[] = {(EvsEvent *) event};
	EvsHandlerContext errors;
	Jsonb	   *state = NULL;

	evs_handler_context_push(&errors, folder->projection, events, 1);
	if (folder->expanded != NULL)
		folder->routine->advance(folder->expanded, event);
	else
		state = folder->routine->step(folder->state, event);
	evs_handler_context_pop(&errors);
	return state;
}

void
evs_folder_step(EvsFolder *folder, const EvsEvent *event)
{
	MemoryContext caller;
	Jsonb	   *state;

	CHECK_FOR_INTERRUPTS();
	if (folder->expanded != NULL)
	{
		(void) call_routine(folder, event);
		return;
	}

	MemoryContextReset(folder->contexts[folder->current]);
	caller = MemoryContextSwitchTo(folder->contexts[folder->current]);
	if (folder->routine != NULL)
		state = call_routine(folder, event);
	else
		state = call_function(folder, event);
	MemoryContextSwitchTo(caller);

	/* the state that was passed may have been returned: it is where it was */
	if (state != folder->state)
	{
		folder->state = state;
		folder->current = 1 - folder->current;
	}
}

Jsonb *
evs_folder_state(EvsFolder *folder)
{
	if (folder->expanded != NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(folder->contexts[1]);
		Jsonb	   *state;

		MemoryContextReset(folder->contexts[1]);
		state = folder->routine->flatten(folder->expanded);
		MemoryContextSwitchTo(caller);
		return state;
	}
	return folder->state;
}
