/*
 * snapshot_check.c - may a state be computed from a snapshot?
 *
 * A snapshot is no more than a shortcut: what cannot be used is reported, and
 * the state is computed from the events.  It can be used when
 *
 *	- filter, start and key are those that it was made with;
 *	- it has the projection's state version, and handler and upcasters are the
 *	  same; or is_compatible() says that its version will do; or migrate_state()
 *	  brings it up.  These two speak for the handler and the upcasters that there
 *	  were when they or the state version were given, not for later ones.  Nor for
 *	  what was not used any more just before: it is gone (alter.c).
 *
 * That the stream has the event that the snapshot ends with is for whoever
 * reads the stream to check: state_load.c.
 *
 * What the owner's functions raise is no reason to fail: they run in a
 * subtransaction, and an error means that the snapshot cannot be used.  Errors
 * that are not about the snapshot (cancellation, shutdown, lack of resources,
 * deadlock, serialization) pass through.
 */
#include "attempt.h"
#include "snapshots.h"

#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "handlers.h"
#include "pure_call.h"
#include "resolve.h"
#include "types.h"

/* ---- telling definitions apart ---- */

static uint32
hash_text(uint32 hash, const char *value, int length)
{
	hash = hash_combine(hash, length);
	return hash_combine(hash, hash_bytes((const unsigned char *) value, length));
}

static uint32
hash_texts(uint32 hash, text *const *values, int count)
{
	hash = hash_combine(hash, count);
	for (int i = 0; i < count; i++)
		hash = hash_text(hash, VARDATA_ANY(values[i]), VARSIZE_ANY_EXHDR(values[i]));
	return hash;
}

/* Which events are folded, by which key. */
static uint32
selection_hash(const EvsProjection *projection)
{
	uint32		hash = 0;

	hash = hash_texts(hash, projection->filter.categories, projection->filter.ncategories);
	hash = hash_texts(hash, projection->filter.types, projection->filter.ntypes);
	hash = hash_combine(hash, projection->key_kind);
	if (projection->key_function != NULL)
		hash = hash_text(hash, projection->key_function, strlen(projection->key_function));
	hash = hash_combine(hash, (uint32) projection->start_after);
	return hash_combine(hash, (uint32) ((uint64) projection->start_after >> 32));
}

bool
evs_snapshot_same_selection(const EvsProjection *a, const EvsProjection *b)
{
	return selection_hash(a) == selection_hash(b);
}

/* What is done with them. */
static uint32
handler_hash(const EvsProjection *projection)
{
	const char *code = projection->handler ? projection->handler : projection->query;
	uint32		hash = hash_text(0, code, strlen(code));

	return projection->npath > 0 ? hash_texts(hash, projection->path, projection->npath) : hash;
}

static int64
two_hashes(uint32 upper, uint32 lower)
{
	return (int64) ((uint64) upper << 32 | lower);
}

/*
 * The selection in the upper half; in the lower the handler, and the upcasters
 * that make the events which it gets of stored ones.
 */
int64
evs_snapshot_definition(const EvsProjection *projection)
{
	return two_hashes(selection_hash(projection),
					  handler_hash(projection) ^ evs_types_fingerprint(&projection->filter));
}

int64
evs_snapshot_definition_before(const EvsProjection *projection)
{
	return two_hashes(selection_hash(projection),
					  handler_hash(projection) ^ evs_types_fingerprint_before(&projection->filter));
}

int64
evs_snapshot_base_definition(const EvsProjection *projection)
{
	return two_hashes(selection_hash(projection), handler_hash(projection));
}

int64
evs_snapshot_vouch(const EvsProjection *projection)
{
	return two_hashes(handler_hash(projection), evs_types_fingerprint(&projection->filter));
}

bool
evs_snapshot_vouches(const EvsProjection *projection)
{
	int64		before = two_hashes(handler_hash(projection),
									evs_types_fingerprint_before(&projection->filter));

	return projection->vouched == before ||
		projection->vouched == evs_snapshot_vouch(projection);
}

/* Do is_compatible and migrate_state speak for what the row would be used for? */
static bool
is_vouched_for(const EvsProjection *projection, const EvsSnapshot *row)
{
	uint64		differs = (uint64) projection->vouched ^ (uint64) evs_snapshot_vouch(projection);

	return row->upto > 0 ? differs >> 32 == 0 : differs == 0;
}

/* ---- the owner's functions ---- */

/* Errors that say nothing about the snapshot. */
static bool
is_foreign_error(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
	}
	return false;
}

/* Call one of the owner's functions, of two arguments; false if it returned null. */
static bool
call(const EvsProjection *projection, const char *signature,
	 const Oid *argtypes, Datum *arguments, Datum *result)
{
	LOCAL_FCINFO(fcinfo, 2);
	FmgrInfo	flinfo;
	Oid			function = evs_handler_lookup(signature, 2, argtypes);

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s does not exist", signature),
				 errhint("Create the function again, or alter the projection.")));
	if (object_aclcheck(ProcedureRelationId, function, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", signature),
				 errdetail("The projection's owner \"%s\" may not execute it.",
						   projection->owner),
				 errhint("Grant EXECUTE on the function to that role.")));
	evs_resolve_check_trust(function);
	fmgr_info(function, &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 2, InvalidOid, NULL, NULL);
	for (int i = 0; i < 2; i++)
	{
		fcinfo->args[i].value = arguments[i];
		fcinfo->args[i].isnull = false;
	}
	*result = evs_pure_call(fcinfo, EVS_PURE_STATE);
	return !fcinfo->isnull;
}

static bool
is_compatible(const EvsProjection *projection, const EvsSnapshot *row)
{
	Oid			argtypes[] = {INT4OID, INT4OID};
	Datum		arguments[] = {
		Int32GetDatum(row->state_version), Int32GetDatum(projection->state_version)
	};
	Datum		result;

	return projection->is_compatible != NULL &&
		call(projection, projection->is_compatible, argtypes, arguments, &result) &&
		DatumGetBool(result);
}

static bool
migrate(const EvsProjection *projection, EvsSnapshot *row)
{
	Oid			argtypes[] = {JSONBOID, INT4OID};
	Datum		arguments[] = {
		JsonbPGetDatum(row->state), Int32GetDatum(row->state_version)
	};
	Datum		result;

	if (projection->migrate_state == NULL ||
		!call(projection, projection->migrate_state, argtypes, arguments, &result))
		return false;
	row->state = DatumGetJsonbP(result);
	return true;
}

/*
 * A row of another state version: can it be used, perhaps as something else?
 * Returns what is in the way (as evs_snapshot_reject() takes it), or NULL.
 */
static char *
bring_up(EvsProjection *projection, EvsSnapshot *row, char **message)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool accepted = false;
	char	   *volatile problem = NULL;

	*message = NULL;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		accepted = is_compatible(projection, row) || migrate(projection, row);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		evs_attempt_flush();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
		if (is_foreign_error(error->sqlerrcode))
			ReThrowError(error);
		problem = psprintf("has state version %d, not %d, and bringing it up failed with SQLSTATE %s",
						   row->state_version, projection->state_version,
						   unpack_sql_state(error->sqlerrcode));
		*message = error->message;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;

	if (problem == NULL && !accepted)
		problem = psprintf("has state version %d, not %d",
						   row->state_version, projection->state_version);
	if (problem == NULL)
		row->state_version = projection->state_version;
	return problem;
}

const char *
evs_snapshot_problem(EvsProjection *projection, EvsSnapshot *row, char **message)
{
	uint64		definition = (uint64) (row->upto > 0 ? evs_snapshot_base_definition(projection) :
										   evs_snapshot_definition(projection));
	uint64		made_by = (uint64) row->definition;
	bool		by_stream = projection->key_kind == EVS_KEY_STREAM;

	*message = NULL;
	if (row->state == NULL || row->event_count <= 0 || row->position <= 0 || (by_stream && row->version <= 0))
		return "cannot be read";

	/* without a stream to read it is the state itself, made by whatever made it */
	if (by_stream && made_by >> 32 != definition >> 32)
		return "was made with another filter or start";
	if (row->state_version != projection->state_version)
	{
		if (!by_stream || is_vouched_for(projection, row))
			return bring_up(projection, row, message);
		return psprintf("has state version %d, not %d, and handler or upcaster have changed since that was given",
						row->state_version, projection->state_version);
	}
	if (by_stream && made_by != definition)
		return "was made by another handler or upcaster";
	return NULL;
}

bool
evs_snapshot_accept(EvsProjection *projection, text *key, EvsSnapshot *row)
{
	char	   *message;
	const char *problem = evs_snapshot_problem(projection, row, &message);

	if (problem != NULL)
		evs_snapshot_reject(projection, key, problem, message);
	return problem == NULL;
}
