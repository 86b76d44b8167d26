/*
 * activate.c - activate_projection: replay what an inline projection that was
 * registered, resumed or reset has not seen, and make it active.
 *
 * Inside a transaction block all of it happens in that one transaction.
 */
#include "evsource.h"

#include "executor/spi.h"
#include "fmgr.h"

#include "horizon.h"
#include "procedure.h"
#include "registry.h"
#include "replay.h"

PG_FUNCTION_INFO_V1(evsource_activate_projection);

/* Is there anything to do?  Errors say what to do instead. */
static bool
check_activation(const EvsProjection *projection)
{
	const char *hint = "";

	switch (projection->state)
	{
		case EVS_PROJECTION_CATCHING_UP:
			return true;
		case EVS_PROJECTION_ACTIVE:
			ereport(NOTICE,
					(errmsg("projection \"%s\" is already active", projection->name)));
			return false;
		case EVS_PROJECTION_PAUSED:
		case EVS_PROJECTION_FAILED:
			hint = "Call evsource.resume_projection() first.";
			break;
		case EVS_PROJECTION_REBUILDING:
			hint = "Call evsource.rebuild_projection() to complete the rebuild.";
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot activate projection \"%s\"", projection->name),
			 errdetail("Its state is \"%s\".", evs_projection_state_name(projection->state)),
			 errhint("%s", hint)));
	return false;
}

/* Note what there is to do, for those who watch. */
static EvsOutcome
start_activation(EvsProcedure *procedure)
{
	EvsProjection *projection = evs_procedure_open(procedure);
	EvsCheckpoint checkpoint;
	int64		rest;

	if (projection == NULL)
		return EVS_DONE;
	evs_checkpoint_read(projection->name, &checkpoint);
	rest = evs_registry_count(&projection->filter, checkpoint.position,
							  evs_horizon_safe_position());
	evs_checkpoint_start(projection->name, checkpoint.event_count + rest);
	return EVS_DONE;
}

static EvsOutcome
activation_step(EvsProcedure *procedure)
{
	EvsProjection *projection = evs_procedure_open(procedure);

	return projection == NULL ? EVS_DONE : evs_procedure_catch_up(procedure, projection);
}

/*
 * evsource.activate_projection(projection, lock_timeout)
 *
 * Lets an inline projection that is catching up do so, and makes it active.
 *
 * Errors: 42704, 42501, 55000 when its state is another, 55P03 when appenders
 * never left the log alone for a moment, whatever the handler raises.
 */
Datum
evsource_activate_projection(PG_FUNCTION_ARGS)
{
	EvsProcedure procedure;
	EvsProjection *projection;

	SPI_connect_ext(evs_procedure_is_atomic(fcinfo) ? 0 : SPI_OPT_NONATOMIC);
	evs_procedure_begin(&procedure, fcinfo, EVS_PROJECTION_CATCHING_UP, 1);

	projection = evs_registry_open(procedure.name);
	if (!check_activation(projection))
		 /* nothing to do */ ;
	else if (evs_procedure_is_atomic(fcinfo))
		evs_replay_activate(projection);
	else
	{
		evs_procedure_next_transaction(false);
		evs_procedure_repeat(&procedure, start_activation);
		evs_procedure_next_transaction(true);
		evs_procedure_repeat(&procedure, activation_step);
	}

	SPI_finish();
	PG_RETURN_VOID();
}
