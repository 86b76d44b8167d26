/*
 * register.c - create_projection.
 *
 * One transaction, the caller's: the row, the read model that the handler makes
 * of the history, and the checkpoint commit together or not at all.  An inline
 * projection ends with the barrier (replay.c); from the commit on, every append
 * dispatches to it.
 *
 * With concurrently => true only the row is written; activate_projection does
 * the rest in transactions of its own.
 */
#include "evsource.h"

#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/acl.h"

#include "alter.h"
#include "barrier.h"
#include "definition.h"
#include "horizon.h"
#include "registry.h"
#include "replay.h"
#include "shadow.h"
#include "snapshots.h"
#include "truncate_warn.h"
#include "unit.h"

PG_FUNCTION_INFO_V1(evsource_create_projection);

/* The arguments of create_projection after the projection. */
static const int create_arguments[EVS_NPARAMETERS] = {
	[EVS_PARAMETER_HANDLER] = 1,
	[EVS_PARAMETER_QUERY] = 2,
	[EVS_PARAMETER_MODE] = 3,
	[EVS_PARAMETER_CATEGORIES] = 4,
	[EVS_PARAMETER_TYPES] = 5,
	[EVS_PARAMETER_KEY] = 6,
	[EVS_PARAMETER_STATE_VERSION] = 9,
	[EVS_PARAMETER_TABLES] = 10,
	[EVS_PARAMETER_ON_RESET] = 11,
	[EVS_PARAMETER_ON_ERROR] = 12,
	[EVS_PARAMETER_SNAPSHOTS] = 15,
	[EVS_PARAMETER_SNAPSHOT_EVERY] = 16,
	[EVS_PARAMETER_SNAPSHOT_AFTER_BATCH] = 17,
	[EVS_PARAMETER_RESTORE_FROM_SNAPSHOT] = 18,
	[EVS_PARAMETER_IS_COMPATIBLE] = 19,
	[EVS_PARAMETER_MIGRATE_STATE] = 20,
	[EVS_PARAMETER_NOTIFY] = 21,
	[EVS_PARAMETER_KEEP_SNAPSHOTS] = 22,
	[EVS_PARAMETER_PATH] = 23,
	[EVS_PARAMETER_PARTITIONS] = 24,
};

#define CREATE_START		7
#define CREATE_START_AFTER	8
#define CREATE_IF_EXISTS	13
#define CREATE_CONCURRENTLY	14

typedef enum IfExists
{
	IF_EXISTS_ERROR,
	IF_EXISTS_KEEP,
	IF_EXISTS_ALTER
} IfExists;

/* Where the projection begins in the log. */
typedef struct Start
{
	bool		now;			/* skip what is there */
	bool		given;			/* start_after was given */
	int64		after;
} Start;

static void
read_start(FunctionCallInfo fcinfo, Start *start)
{
	static const char *const words[] = {"beginning", "now"};
	char	   *word = evs_argument_text(fcinfo, CREATE_START);

	start->now = word != NULL &&
		evs_parameter_word("start", word, words, lengthof(words)) == 1;
	start->given = !PG_ARGISNULL(CREATE_START_AFTER);
	start->after = start->given ? PG_GETARG_INT64(CREATE_START_AFTER) : 0;

	if (start->now && start->given)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start => 'now' and start_after exclude each other"),
				 errhint("Leave one of them out.")));
	if (start->after < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start_after must not be negative"),
				 errdetail("It is %lld.", (long long) start->after),
				 errhint("Pass 0 to begin with the first event.")));
	if (start->after > evs_horizon_last_position())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start_after is beyond the end of the log"),
				 errdetail("It is %lld, the last position is %lld.",
						   (long long) start->after,
						   (long long) evs_horizon_last_position()),
				 errhint("Use start => 'now' to skip what is there.")));
}

static IfExists
read_if_exists(FunctionCallInfo fcinfo)
{
	static const char *const words[] = {"error", "keep", "alter"};
	char	   *word = evs_argument_text(fcinfo, CREATE_IF_EXISTS);

	if (word == NULL)
		return IF_EXISTS_ERROR;
	return (IfExists) evs_parameter_word("if_exists", word, words, lengthof(words));
}

/*
 * An existing projection gets the new definition, if that is another one.
 * Where it started is history: only an explicit start_after changes it.
 */
static void
alter_existing(EvsProjection *old, const EvsParameters *parameters, const Start *start,
			   bool concurrently)
{
	EvsProjection *new = evs_definition_default(old->name);

	evs_registry_check_rights(old);
	new->owner = old->owner;
	new->start_after = start->given ? start->after : old->start_after;
	evs_definition_apply(new, parameters);

	/* the same code goes on meaning what it meant */
	if (old->query != NULL ? (new->query != NULL && strcmp(old->query, new->query) == 0) :
		(new->handler != NULL && strcmp(old->handler, new->handler) == 0))
		new->search_path = old->search_path;

	evs_alter_apply(old, new, concurrently);
}

/*
 * evsource.create_projection(projection, handler, query, mode, ...) returns text
 *
 * Registers a projection and, if it is inline, applies the log to it.  Returns
 * its name.
 *
 * Errors: 42710 when the name is taken, 42939 when it is reserved; 22004, 22023, 42601, 42883, 42P13,
 * 42725 and 42P01 for bad parameters; 42501; 25000 under REPEATABLE READ when
 * there is history to replay; whatever the handler raises.
 */
Datum
evsource_create_projection(PG_FUNCTION_ARGS)
{
	char	   *name = evs_argument_name(fcinfo, 0);
	bool		concurrently = evs_argument_bool(fcinfo, CREATE_CONCURRENTLY, false);
	IfExists	if_exists = read_if_exists(fcinfo);
	EvsParameters parameters;
	Start		start;
	EvsProjection *projection;

	evs_parameters_read(fcinfo, create_arguments, &parameters);

	/* listeners of an inline projection would cost appenders the notify lock */
	if (!parameters.has_notify)
	{
		parameters.has_notify = true;
		parameters.notify = parameters.mode != NULL &&
			strcmp(parameters.mode, "inline") != 0;
	}
	read_start(fcinfo, &start);

	evs_registry_lock(name);
	projection = evs_projection_load(name, true);
	if (projection != NULL)
	{
		switch (if_exists)
		{
			case IF_EXISTS_ERROR:
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_OBJECT),
						 errmsg("projection \"%s\" already exists", name),
						 errhint("if_exists => 'keep' leaves it as it is, if_exists => 'alter' gives it the new definition.")));
				break;
			case IF_EXISTS_KEEP:
				ereport(NOTICE,
						(errmsg("projection \"%s\" already exists, keeping it", name)));
				break;
			case IF_EXISTS_ALTER:
				alter_existing(projection, &parameters, &start, concurrently);
				break;
		}
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}

	if (evs_shadow_is_name(name))
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("name of projection \"%s\" is reserved", name),
				 errdetail("Names that begin like this are those of tables that an online rebuild builds or keeps."),
				 errhint("Choose another name.")));
	projection = evs_definition_default(name);
	evs_definition_apply(projection, &parameters);
	projection->replay_until = evs_horizon_safe_position();
	projection->vouched = evs_snapshot_vouch(projection);

	if (projection->mode != EVS_MODE_INLINE)
	{
		projection->state = EVS_PROJECTION_ACTIVE;
		projection->start_after = start.now ? evs_horizon_safe_position() : start.after;
		evs_registry_insert(projection);
		evs_units_create(projection);
	}
	else if (concurrently)
	{
		projection->start_after = start.now ? evs_horizon_safe_position() : start.after;
		evs_registry_insert(projection);
	}
	else
	{
		/* "now" is the moment when nobody appends */
		if (start.now)
		{
			evs_barrier("create projection", name);
			projection->start_after = evs_horizon_end();
		}
		else
			projection->start_after = start.after;
		evs_registry_insert(projection);
		evs_replay_activate(projection);
	}
	if (!start.now)
		evs_truncate_warn(projection, NULL);

	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}
