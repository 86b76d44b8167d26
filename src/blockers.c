/*
 * blockers.c - who holds the safe position back.
 *
 * Every open transaction that has appended has published the lowest position
 * that it may still add (horizon.c); the lowest of all is where readers of the
 * log stop.  Nothing is locked for the look: it tells of a moment.
 */
#include "evsource.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/tuplestore.h"

#include "horizon.h"

PG_FUNCTION_INFO_V1(evsource_holders);

/*
 * evsource._holders() returns setof (bound bigint, pid integer, xid xid)
 *
 * The open transactions that have appended, and the prepared ones, which have no
 * pid.  None on a standby, whose safe position the primary has published.
 */
Datum
evsource_holders(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result;
	EvsHolder  *holders;
	int			count;

	InitMaterializedSRF(fcinfo, 0);
	result = (ReturnSetInfo *) fcinfo->resultinfo;
	if (RecoveryInProgress())
		return (Datum) 0;

	holders = evs_horizon_holders(&count);
	for (int i = 0; i < count; i++)
	{
		Datum		values[3] = {
			Int64GetDatum(holders[i].bound),
			Int32GetDatum(holders[i].pid),
			TransactionIdGetDatum(holders[i].xid),
		};
		bool		nulls[3] = {
			false, holders[i].pid == 0, !TransactionIdIsValid(holders[i].xid)
		};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
