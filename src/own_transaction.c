/*
 * own_transaction.c - a transaction of a worker's own, whatever the defaults of
 * the server, the database and the role are.
 */
#include "evsource.h"

#include "access/xact.h"
#include "utils/snapmgr.h"

#include "attempt.h"
#include "own_transaction.h"

void
evs_own_transaction_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
evs_own_transaction_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

void
evs_own_transaction_give_up(MemoryContext caller)
{
	MemoryContextSwitchTo(caller);
	EmitErrorReport();
	evs_attempt_flush();
	AbortCurrentTransaction();
}
