/*
 * utility.c - commands that evsource has to know of: one hook for all of them.
 *
 * COMMIT PREPARED and ROLLBACK PREPARED end a transaction in a session that had
 * no part in it: no transaction callback tells what it did, so whoever waits is
 * woken.
 */
#include "evsource.h"

#include "nodes/parsenodes.h"
#include "tcop/utility.h"

#include "utility.h"
#include "wakeup.h"

static ProcessUtility_hook_type previous_hook = NULL;

static bool
ends_prepared_transaction(Node *statement)
{
	if (!IsA(statement, TransactionStmt))
		return false;
	switch (((TransactionStmt *) statement)->kind)
	{
		case TRANS_STMT_COMMIT_PREPARED:
		case TRANS_STMT_ROLLBACK_PREPARED:
			return true;
		default:
			return false;
	}
}

static void
process_utility(EVS_PROCESS_UTILITY_PARAMETERS)
{
	Node	   *statement = pstmt->utilityStmt;
	bool		ends_prepared = ends_prepared_transaction(statement);

	if (previous_hook)
		previous_hook(EVS_PROCESS_UTILITY_ARGUMENTS);
	else
		standard_ProcessUtility(EVS_PROCESS_UTILITY_ARGUMENTS);

	if (ends_prepared)
		evs_wakeup_prepared_ended();
}

void
evs_utility_init(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
