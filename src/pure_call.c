/*
 * pure_call.c - call a function that looks at events and states, and must not append.
 *
 * What a validator or an upcaster appended would be validated in turn.  And a state
 * is computed whenever somebody asks for it, by whoever may read, with the rights of
 * the projection's owner: what a fold appended there would be appended again and
 * again.  So it does not append while its event is applied either: who makes that
 * mistake shall meet it at once, and not whoever computes the state later.
 */
#include "pure_call.h"

/* the innermost that is running */
static EvsPure running = EVS_PURE_NONE;

Datum
evs_pure_call(FunctionCallInfo fcinfo, EvsPure what)
{
	EvsPure		outer = running;
	Datum		result = (Datum) 0;

	running = what;
	PG_TRY();
	{
		result = FunctionCallInvoke(fcinfo);
	}
	PG_FINALLY();
	{
		running = outer;
	}
	PG_END_TRY();
	return result;
}

void
evs_pure_check_append(void)
{
	switch (running)
	{
		case EVS_PURE_NONE:
			break;
		case EVS_PURE_TYPE:
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot append while an event is validated or upcast"),
					 errdetail("A validator or an upcaster tried to append an event."),
					 errhint("Let it look at the data and nothing else; what is to happen after an event belongs in a projection's handler.")));
			break;
		case EVS_PURE_STATE:
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot append while a state is computed"),
					 errdetail("A fold, or a function of its keys or snapshots, tried to append an event, and would again whenever the state is computed."),
					 errhint("Let it look at the state and the event and nothing else; what is to happen after an event belongs in the handler of another projection.")));
			break;
	}
}
