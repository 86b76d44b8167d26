/*
 * own_transaction.c - a transaction of a worker's own, whatever the defaults of
 * the server, the database and the role are.
 *
 * Its commit need not be flushed: a crash takes read model and checkpoint back
 * together.
 */
#include "evsource.h"

#include "access/xact.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "own_transaction.h"

void
evs_own_transaction_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
evs_own_transaction_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}
