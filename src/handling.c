/*
 * handling.c - while a projection's handler runs: as whom, with which settings, and
 * whether what it gets is history.
 */
#include "evsource.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "handling.h"
#include "identity.h"
#include "resolve.h"

/* The handler that runs.  It may try or verify a projection, whose handler runs within it. */
typedef struct Running
{
	bool		replaying;		/* it gets history */
	const char *search_path;	/* with which it was called */
	const char *live_path;		/* of its projection, where that is another one, or NULL */
	SubTransactionId subid;		/* in which it was called; 0: none runs */
	struct Running *outer;		/* within which it runs, or NULL */
} Running;

static Running running;

/* So many times one was called in this process. */
static uint64 calls = 0;

static void
begin_handler(const EvsProjection *projection)
{
	Running		handler = {
		.replaying = projection->replaying, .search_path = projection->search_path,
		.live_path = projection->live_path, .subid = GetCurrentSubTransactionId()
	};

	if (running.subid != InvalidSubTransactionId)
	{
		handler.outer = MemoryContextAlloc(TopTransactionContext, sizeof(Running));
		*handler.outer = running;
	}
	running = handler;
	calls++;
}

static void
end_handler(void)
{
	Running    *outer = running.outer;

	memset(&running, 0, sizeof(Running));
	if (outer == NULL)
		return;
	running = *outer;
	pfree(outer);
}

/*
 * Become the projection's owner, and see what is there now: the statement that
 * appends may have begun before the transaction whose work on the stream it
 * follows was visible.
 */
void
evs_handling_begin(const EvsProjection *projection, EvsIdentity *identity)
{
	Oid			owner = get_role_oid(projection->owner, true);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("owner \"%s\" of projection \"%s\" does not exist",
						projection->owner, projection->name),
				 errdetail("The projection runs as that role, and is not skipped."),
				 errhint("Create the role again; or, as a superuser, give the projection another owner (evsource.alter_projection), pause it or drop it.")));
	evs_identity_enter_role(identity, owner, projection->search_path);
	evs_identity_pin_settings();
	evs_resolve_check_may_read(projection, owner);
	PushActiveSnapshot(GetTransactionSnapshot());
	begin_handler(projection);
}

void
evs_handling_end(const EvsProjection *projection, EvsIdentity *identity)
{
	end_handler();
	PopActiveSnapshot();
	CommandCounterIncrement();
	evs_identity_leave(identity);
	if (projection->applied != NULL)
		projection->applied(projection->applied_argument);
}

bool
evs_handling_is_replaying(void)
{
	return running.replaying;
}

uint64
evs_handling_calls(void)
{
	return calls;
}

const char *
evs_handling_live_path(void)
{
	if (running.live_path == NULL || strcmp(namespace_search_path, running.search_path) != 0)
		return NULL;
	return running.live_path;
}

void
evs_handling_aborted(SubTransactionId subid)
{
	while (running.subid == subid)
		end_handler();
}

void
evs_handling_forget(void)
{
	memset(&running, 0, sizeof(Running));
}
