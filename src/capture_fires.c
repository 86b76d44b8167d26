/*
 * capture_fires.c - when the triggers of a capture fire.
 *
 * That is for ALTER TABLE ... ENABLE [ALWAYS | REPLICA] TRIGGER to say of the triggers that
 * capture.  Those that only help them fire always.
 *
 * PostgreSQL asks for the table's owner; who captures a table need not be that.
 */
#include "capture.h"

#include "access/xact.h"
#include "utils/rel.h"

#include "identity.h"
#include "query.h"

/* Also that of its clones in partitions. */
void
evs_capture_set_state(Relation table, const char *trigger, char state)
{
	EvsIdentity identity;

	evs_identity_enter_role(&identity, evs_query_owner(), "pg_catalog, pg_temp");
	EnableDisableTrigger(table, trigger, InvalidOid, state, false, true, ShareRowExclusiveLock);
	CommandCounterIncrement();
	evs_identity_leave(&identity);
}
