/*
 * definition.c - parameters of an SQL call become the definition of a
 * projection.
 *
 * The same way for all: create_projection applies its parameters to an empty
 * definition, alter_projection to the stored one, and create_projection with
 * if_exists => 'alter' compares what it made with what is stored.  Names are
 * stored resolved and filters sorted, so equal definitions compare equal.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "definition.h"
#include "handlers.h"
#include "query.h"
#include "registry.h"
#include "replication.h"
#include "resolve.h"
#include "rights.h"
#include "scan.h"
#include "settings.h"
#include "text_array.h"

/* What the words for a snapshot policy stand for. */
typedef struct Preset
{
	const char *name;
	EvsSnapshotPolicy policy;
} Preset;

static const Preset presets[] = {
	{"default", {100, true, true, 1}},
	{"high_performance", {500, false, true, 1}},
	{"max_durability", {50, true, true, 1}},
	{"disabled", {0, false, false, 1}},
};

/*
 * Filters.
 */
static int
compare_texts(const void *a, const void *b)
{
	return evs_compare_text(*(text *const *) a, *(text *const *) b);
}

/* Sort, and drop what is there twice. */
static void
normalize_texts(text **texts, int *count)
{
	int			kept = 0;

	if (*count == 0)
		return;

	qsort(texts, *count, sizeof(text *), compare_texts);
	for (int i = 1; i < *count; i++)
		if (!evs_same_text(texts[kept], texts[i]))
			texts[++kept] = texts[i];
	*count = kept + 1;
}

static void
apply_filter(EvsFilter *filter, const EvsParameters *parameters)
{
	EvsFilter	given;

	evs_filter_from_arrays(&given, parameters->categories, parameters->types);
	if (parameters->categories != NULL)
	{
		filter->categories = given.categories;
		filter->ncategories = given.ncategories;
		normalize_texts(filter->categories, &filter->ncategories);
	}
	if (parameters->types != NULL)
	{
		filter->types = given.types;
		filter->ntypes = given.ntypes;
		normalize_texts(filter->types, &filter->ntypes);
	}

	evs_parameter_check_categories(filter);
	for (int i = 0; i < filter->ntypes; i++)
		if (VARSIZE_ANY_EXHDR(filter->types[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("array \"types\" must not contain an empty string"),
					 errdetail("No event has a type without a name."),
					 errhint("Leave types out to have all events.")));
}

static bool
texts_equal(text *const *a, int a_count, text *const *b, int b_count)
{
	if (a_count != b_count)
		return false;
	for (int i = 0; i < a_count; i++)
		if (!evs_same_text(a[i], b[i]))
			return false;
	return true;
}

/*
 * Definitions.
 */
EvsProjection *
evs_definition_default(const char *name)
{
	EvsProjection *projection = palloc0(sizeof(EvsProjection));

	projection->context = CurrentMemoryContext;
	projection->name = pstrdup(name);
	projection->mode = EVS_MODE_INLINE;
	projection->state = EVS_PROJECTION_CATCHING_UP;
	projection->key_kind = EVS_KEY_STREAM;
	projection->state_version = 1;
	projection->partitions = 1;
	projection->owner = GetUserNameFromId(GetUserId(), false);
	projection->policy = presets[0].policy;

	return projection;
}

/* Set parameters back that cannot be given as "none". */
static void
apply_defaults(EvsProjection *projection, ArrayType *defaults)
{
	static const char *const words[] = {
		"categories", "types", "key", "tables", "on_reset", "is_compatible", "migrate_state"
	};
	ListCell   *cell;

	foreach(cell, evs_text_array_parameter_names(defaults, "defaults"))
	{
		switch (evs_parameter_word("defaults", lfirst(cell), words, lengthof(words)))
		{
			case 0:
				projection->filter.ncategories = 0;
				break;
			case 1:
				projection->filter.ntypes = 0;
				break;
			case 2:
				evs_projection_set_key(projection, "stream");
				break;
			case 3:
				projection->tables = NIL;
				break;
			case 4:
				projection->on_reset = NULL;
				break;
			case 5:
				projection->is_compatible = NULL;
				break;
			case 6:
				projection->migrate_state = NULL;
				break;
		}
	}
}

static void
apply_handler(EvsProjection *projection, const EvsParameters *parameters)
{
	if (parameters->handler != NULL && parameters->query != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a projection has a handler or a query, not both"),
				 errhint("Leave one of them out.")));

	if (parameters->handler != NULL)
	{
		projection->handler = evs_resolve_handler(parameters->handler, &projection->kind);
		projection->query = NULL;
	}
	if (parameters->query != NULL)
	{
		projection->kind = EVS_KIND_QUERY;
		projection->query = parameters->query;
		projection->handler = NULL;
	}
	if (projection->handler == NULL && projection->query == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a projection needs a handler or a query"),
				 errhint("Give a function as handler, or SQL text that reads new_events as query.")));

	/* names in the code mean what they mean to who gave it */
	if (parameters->handler != NULL || parameters->query != NULL)
		projection->search_path = evs_resolve_search_path();
}

/*
 * A fold with a third parameter is passed a path.  It comes and goes with the
 * handler.
 */
static void
apply_path(EvsProjection *projection, const EvsParameters *parameters)
{
	bool		takes_path = projection->handler != NULL &&
		evs_handler_takes_path(projection->handler);

	if (parameters->path != NULL && !takes_path)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("projection \"%s\" has no use for a path", projection->name),
				 errhint("A path is passed to a fold f(state jsonb, event evsource.event, path text[]), such as evsource.fold_sum.")));
	if (!takes_path)
		projection->npath = 0;
	else if (parameters->path != NULL)
	{
		List	   *names = evs_text_array_parameter_names(parameters->path, "path");
		ListCell   *cell;

		projection->npath = 0;
		projection->path = palloc(sizeof(text *) * Max(list_length(names), 1));
		foreach(cell, names)
			projection->path[projection->npath++] = cstring_to_text(lfirst(cell));
	}

	if (takes_path && projection->npath == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("handler %s needs a path", projection->handler),
				 errhint("Say where in the event's data the value is: path => '{amount}'.")));
}

static EvsQuery select_sharing = {
	"select projection from evsource.projections where $1 = any (tables) and projection <> $2"
	" order by 1 limit 1",
	2, {TEXTOID, TEXTOID}, SPI_OK_SELECT
};

/* A reset or rebuild of one empties the table, and the other does not know. */
static void
warn_of_shared(const EvsProjection *projection, const char *table)
{
	Datum		values[] = {CStringGetTextDatum(table), CStringGetTextDatum(projection->name)};
	List	   *others = evs_query_texts(&select_sharing, values, NULL);

	if (others == NIL)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("table %s also belongs to projection \"%s\"", table, (char *) linitial(others)),
			 errdetail("A reset or rebuild of either projection removes the rows of the other, which does not apply its events again."),
			 errhint("Give each projection tables of its own, and let a view show the rows of both.")));
}

static void
apply_tables(EvsProjection *projection, ArrayType *tables)
{
	ListCell   *cell;

	projection->tables = NIL;
	foreach(cell, evs_text_array_parameter_names(tables, "tables"))
	{
		char	   *table = evs_resolve_table(lfirst(cell));
		ListCell   *other;
		bool		known = false;

		foreach(other, projection->tables)
			known = known || strcmp(lfirst(other), table) == 0;
		if (known)
			continue;
		projection->tables = lappend(projection->tables, table);
		warn_of_shared(projection, table);
	}
}

/* What says when a state is saved, and whether it is used, is of no use without one. */
static void
check_has_states(const EvsProjection *projection, const char *parameter, bool given)
{
	if (given && projection->kind != EVS_KIND_FOLD)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only a fold has %s", parameter),
				 errdetail("Projection \"%s\" is of kind \"%s\".", projection->name,
						   evs_kind_name(projection->kind)),
				 errhint("Leave it out. The tables of other projections are saved by evsource.save_snapshot().")));
}

static void
apply_policy(EvsProjection *projection, const EvsParameters *parameters)
{
	EvsSnapshotPolicy *policy = &projection->policy;

	if (parameters->snapshots != NULL)
	{
		const char *words[lengthof(presets)];

		for (int i = 0; i < lengthof(presets); i++)
			words[i] = presets[i].name;
		*policy = presets[evs_parameter_word("snapshots", parameters->snapshots,
											 words, lengthof(words))].policy;
	}
	if (parameters->has_snapshot_every)
		policy->snapshot_every = parameters->snapshot_every;
	if (parameters->has_snapshot_after_batch)
		policy->snapshot_after_batch = parameters->snapshot_after_batch;
	if (parameters->has_restore_from_snapshot)
		policy->restore_from_snapshot = parameters->restore_from_snapshot;
	if (parameters->has_keep_snapshots)
		policy->keep_snapshots = parameters->keep_snapshots;

	if (policy->snapshot_every < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("snapshot_every must not be negative"),
				 errdetail("It is %d.", policy->snapshot_every),
				 errhint("It counts the events between two snapshots of a key; 0 is never.")));
	if (policy->keep_snapshots < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keep_snapshots must be positive"),
				 errdetail("It is %d.", policy->keep_snapshots),
				 errhint("1 keeps the newest snapshot only; snapshots => 'disabled' saves none.")));
	check_has_states(projection, "snapshot_every", parameters->has_snapshot_every);
	check_has_states(projection, "snapshot_after_batch", parameters->has_snapshot_after_batch);
	check_has_states(projection, "restore_from_snapshot", parameters->has_restore_from_snapshot);
}

static void
apply_partitions(EvsProjection *projection, int partitions)
{
	if (partitions < 1 || partitions > evs_max_partitions)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partitions must be between 1 and %d", evs_max_partitions),
				 errdetail("It is %d.", partitions),
				 errhint("Setting evsource.max_partitions is the limit.")));
	projection->partitions = partitions;
}

/* Streams go to partitions: what is not per stream cannot be divided. */
static void
check_partitions(const EvsProjection *projection)
{
	if (projection->partitions == 1)
		return;

	if (projection->mode != EVS_MODE_ASYNC)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only an async projection has partitions"),
				 errdetail("Projection \"%s\" is of mode \"%s\".", projection->name,
						   evs_mode_name(projection->mode)),
				 errhint("Use mode => 'async' or partitions => 1.")));
	if (projection->key_kind != EVS_KEY_STREAM)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a fold with partitions must be keyed by stream"),
				 errdetail("Streams of one key would be in several partitions, and change its state in any order."),
				 errhint("Use partitions => 1 or key => 'stream'.")));
}

/* What each parameter allows may still be wrong together. */
static void
check_combination(const EvsProjection *projection)
{
	if (projection->key_kind != EVS_KEY_STREAM && projection->kind != EVS_KIND_FOLD)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only a fold has a key"),
				 errdetail("Projection \"%s\" is of kind \"%s\".", projection->name,
						   evs_kind_name(projection->kind)),
				 errhint("A fold's handler is f(state jsonb, e evsource.event) returns jsonb.")));

	if (projection->key_kind != EVS_KEY_STREAM && projection->mode == EVS_MODE_INLINE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an inline fold must be keyed by stream"),
				 errdetail("Concurrent appends to different streams would change the state of one key in any order."),
				 errhint("Use mode => 'async', and apply it with evsource.run_projection().")));

	if (projection->policy.keep_snapshots > 1 && projection->key_kind != EVS_KEY_STREAM)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only a fold keyed by stream keeps older snapshots"),
				 errdetail("The snapshots of projection \"%s\" are its states.", projection->name),
				 errhint("Leave keep_snapshots at 1, or make a fold that is keyed by stream.")));

	if (projection->dead_letter && projection->mode == EVS_MODE_INLINE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an inline projection has no dead letters"),
				 errdetail("An error in its handler aborts the append."),
				 errhint("Use mode => 'async' or on_error => 'stop'.")));

	if (projection->kind != EVS_KIND_FOLD && projection->mode == EVS_MODE_INLINE &&
		evs_replication_is_copy())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot register an inline projection in a copy of the log"),
				 errdetail("Nobody appends here: a subscription fills evsource.events in this database."),
				 errhint("Use mode => 'async'.")));

	check_partitions(projection);

	if (projection->state_version < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("state_version must be positive"),
				 errdetail("It is %d.", projection->state_version),
				 errhint("Versions begin with 1.")));
}

/* Another owner: a role that the caller could become. */
static void
apply_owner(EvsProjection *projection, const char *owner)
{
	evs_check_new_owner(psprintf("projection \"%s\"", projection->name), owner);
	projection->owner = pstrdup(owner);
}

void
evs_definition_apply(EvsProjection *projection, const EvsParameters *parameters)
{
	static const char *const modes[] = {"inline", "async", "manual"};
	static const char *const reactions[] = {"stop", "dead_letter"};

	if (parameters->owner != NULL)
		apply_owner(projection, parameters->owner);
	if (parameters->defaults != NULL)
		apply_defaults(projection, parameters->defaults);
	apply_handler(projection, parameters);
	apply_path(projection, parameters);
	apply_filter(&projection->filter, parameters);
	if (parameters->mode != NULL)
		projection->mode = (EvsMode) evs_parameter_word("mode", parameters->mode,
														modes, lengthof(modes));
	if (parameters->key != NULL)
	{
		evs_projection_set_key(projection, parameters->key);
		if (projection->key_kind == EVS_KEY_FUNCTION)
			projection->key_function = evs_resolve_function(parameters->key, EVS_USE_KEY);
	}
	if (parameters->has_state_version)
		projection->state_version = parameters->state_version;
	if (parameters->tables != NULL)
		apply_tables(projection, parameters->tables);
	if (parameters->on_reset != NULL)
		projection->on_reset = evs_resolve_function(parameters->on_reset, EVS_USE_RESET);
	if (parameters->on_error != NULL)
		projection->dead_letter = evs_parameter_word("on_error", parameters->on_error,
													 reactions, lengthof(reactions)) == 1;
	apply_policy(projection, parameters);
	if (parameters->is_compatible != NULL)
		projection->is_compatible = evs_resolve_function(parameters->is_compatible,
														 EVS_USE_COMPATIBLE);
	if (parameters->migrate_state != NULL)
		projection->migrate_state = evs_resolve_function(parameters->migrate_state,
														 EVS_USE_MIGRATE);
	if (parameters->has_notify)
		projection->notify = parameters->notify;
	if (parameters->has_partitions)
		apply_partitions(projection, parameters->partitions);

	check_combination(projection);
	evs_resolve_check_owner(projection);
	if (parameters->query != NULL || (parameters->owner != NULL && projection->query != NULL))
		evs_check_query(projection);
}

static bool
strings_equal(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

bool
evs_definition_same_model(const EvsProjection *a, const EvsProjection *b)
{
	return a->kind == b->kind &&
		strings_equal(a->handler, b->handler) &&
		strings_equal(a->query, b->query) &&
		texts_equal(a->path, a->npath, b->path, b->npath) &&
		texts_equal(a->filter.categories, a->filter.ncategories,
					b->filter.categories, b->filter.ncategories) &&
		texts_equal(a->filter.types, a->filter.ntypes, b->filter.types, b->filter.ntypes) &&
		a->key_kind == b->key_kind &&
		strings_equal(a->key_function, b->key_function) &&
		a->start_after == b->start_after &&
		a->state_version == b->state_version;
}

bool
evs_definition_same_versions(const EvsProjection *a, const EvsProjection *b)
{
	return a->state_version == b->state_version &&
		strings_equal(a->is_compatible, b->is_compatible) &&
		strings_equal(a->migrate_state, b->migrate_state);
}

bool
evs_definition_equal(const EvsProjection *a, const EvsProjection *b)
{
	ListCell   *left;
	ListCell   *right;

	if (list_length(a->tables) != list_length(b->tables))
		return false;
	forboth(left, a->tables, right, b->tables)
		if (strcmp(lfirst(left), lfirst(right)) != 0)
			return false;

	return evs_definition_same_model(a, b) &&
		a->mode == b->mode &&
		strings_equal(a->on_reset, b->on_reset) &&
		a->dead_letter == b->dead_letter &&
		strings_equal(a->owner, b->owner) &&
		strings_equal(a->search_path, b->search_path) &&
		a->policy.snapshot_every == b->policy.snapshot_every &&
		a->policy.snapshot_after_batch == b->policy.snapshot_after_batch &&
		a->policy.restore_from_snapshot == b->policy.restore_from_snapshot &&
		a->policy.keep_snapshots == b->policy.keep_snapshots &&
		evs_definition_same_versions(a, b) &&
		a->partitions == b->partitions &&
		a->notify == b->notify;
}
