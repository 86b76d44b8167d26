/*
 * subscribe.c - create, change, move and drop subscriptions.
 *
 * Who changes one locks its row and those of its cursors (subscription_lock.c):
 * whoever claims a cursor after it finds another number of the definition there
 * and loads it again.
 *
 * Other partitions begin where the old ones end.  The old cursors get an end,
 * beyond which nothing of theirs is out; they are drained up to there, and only
 * then the new ones are looked at.  So no event is lost, none is handed out
 * twice, and each stream stays in order.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "barrier.h"
#include "horizon.h"
#include "parameters.h"
#include "query.h"
#include "rights.h"
#include "scan.h"
#include "subscription.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evsource_create_subscription);
PG_FUNCTION_INFO_V1(evsource_alter_subscription);
PG_FUNCTION_INFO_V1(evsource_drop_subscription);
PG_FUNCTION_INFO_V1(evsource_seek_subscription);
PG_FUNCTION_INFO_V1(evsource_retry_subscription);

/* ---- arguments ---- */

static int
count_argument(FunctionCallInfo fcinfo, int argument, const char *name, int least, int most)
{
	int			count = PG_GETARG_INT32(argument);

	if (count < least || count > most)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between %d and %d", name, least, most),
				 errdetail("It is %d.", count),
				 errhint("Pass a value within these bounds.")));
	return count;
}

/* categories and types of a subscription, as they may be stored. */
static Datum
filter_argument(FunctionCallInfo fcinfo, int argument, bool is_types, char *null)
{
	ArrayType  *array;
	EvsFilter	filter;

	if (PG_ARGISNULL(argument))
	{
		*null = 'n';
		return (Datum) 0;
	}
	*null = ' ';
	array = PG_GETARG_ARRAYTYPE_P(argument);
	evs_filter_from_arrays(&filter, is_types ? NULL : array, is_types ? array : NULL);
	evs_parameter_check_categories(&filter);
	for (int i = 0; i < filter.ntypes; i++)
	{
		if (VARSIZE_ANY_EXHDR(filter.types[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("event type must not be empty"),
					 errhint("Leave it out, or pass null for events of all types.")));
	}
	return PointerGetDatum(array);
}

/* A role that the caller could become; NULL when none is given. */
static char *
owner_argument(FunctionCallInfo fcinfo, int argument)
{
	char	   *owner = evs_argument_text(fcinfo, argument);

	if (owner != NULL)
		evs_check_new_owner("a subscription", owner);
	return owner;
}

static void
check_position(int64 position, const char *name)
{
	int64		last = evs_horizon_last_position();

	if (position < 0 || position > last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between 0 and the last position", name),
				 errdetail("It is %lld; the last position is %lld.",
						   (long long) position, (long long) last),
				 errhint("Pass a position that evsource.safe_position() has reached, or 0 for the whole log.")));
}

static int64
start_argument(FunctionCallInfo fcinfo, int start_argument, int after_argument)
{
	static const char *const words[] = {"beginning", "now"};
	char	   *start = evs_argument_text(fcinfo, start_argument);

	if (!PG_ARGISNULL(after_argument))
	{
		if (start != NULL && evs_parameter_word("start", start, words, lengthof(words)) == 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("start => 'now' and start_after exclude each other"),
					 errhint("Leave one of them out.")));
		check_position(PG_GETARG_INT64(after_argument), "start_after");
		return PG_GETARG_INT64(after_argument);
	}
	if (start == NULL || evs_parameter_word("start", start, words, lengthof(words)) == 0)
		return 0;
	return evs_horizon_safe_position();
}

/* ---- rows ---- */

static void
drop_cursors(const char *name)
{
	static EvsQuery query = {
		"delete from evsource.cursors where subscription = $1", 1, {TEXTOID}, SPI_OK_DELETE
	};

	(void) evs_query_run_by_name(&query, name);
}

/* Those after the position. */
static void
drop_dead_letters(const char *name, int64 after)
{
	static EvsQuery query = {
		"delete from evsource.subscription_dead_letters where subscription = $1 and position > $2",
		2, {TEXTOID, INT8OID}, SPI_OK_DELETE
	};
	Datum		values[] = {CStringGetTextDatum(name), Int64GetDatum(after)};

	(void) evs_query_run(&query, values, NULL);
}

/* Cursors of a new generation, all at one position; up to another, events have been out. */
static void
create_cursors(const char *name, int64 position, int64 been_out)
{
	static EvsQuery query = {
		"insert into evsource.cursors (subscription, generation, partition, partitions, definition, position, been_out)"
		" select s.subscription, s.generation, n, s.partitions, s.definition, $2, nullif($3, 0)"
		" from evsource.subscriptions s, generate_series(0, s.partitions - 1) n"
		" where s.subscription = $1",
		3, {TEXTOID, INT8OID, INT8OID}, SPI_OK_INSERT
	};
	Datum		values[] = {
		CStringGetTextDatum(name), Int64GetDatum(position), Int64GetDatum(been_out)
	};

	(void) evs_query_run(&query, values, NULL);
}

/* The same, of the generation after the one that there is. */
static void
create_next_cursors(const char *name, int64 position, int64 been_out)
{
	static EvsQuery next = {
		"update evsource.subscriptions set generation = generation + 1 where subscription = $1",
		1, {TEXTOID}, SPI_OK_UPDATE
	};

	(void) evs_query_run_by_name(&next, name);
	create_cursors(name, position, been_out);
}

static int64
position_of(EvsQuery *query, Datum *values)
{
	return DatumGetInt64(evs_query_value(query, values, NULL, InvalidSnapshot, Int64GetDatum(0)));
}

/*
 * The old cursors get an end where nothing of theirs is out beyond, and the new
 * ones begin there.  Cursors that had not begun yet are replaced.  Which events have
 * been out beyond that is known of each partition, and kept of all: one that has been
 * must not seem new, while one that has not may seem old.
 */
static void
divide_anew(const char *name)
{
	static EvsQuery drop_unbegun = {
		"delete from evsource.cursors c where c.subscription = $1 and exists ("
		" select from evsource.cursors o where o.subscription = $1 and o.generation < c.generation)",
		1, {TEXTOID}, SPI_OK_DELETE
	};
	static EvsQuery end = {
		"select coalesce(max(c.until), max(greatest(c.position, c.handed_out, c.seen, c.suspect_until)))"
		" from evsource.cursors c where c.subscription = $1",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	static EvsQuery set_end = {
		"update evsource.cursors set until = $2 where subscription = $1",
		2, {TEXTOID, INT8OID}, SPI_OK_UPDATE
	};
	static EvsQuery out = {
		"select max(c.been_out) from evsource.cursors c where c.subscription = $1",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	Datum		values[2] = {CStringGetTextDatum(name)};
	int64		been_out = position_of(&out, values);
	int64		position;

	(void) evs_query_run_by_name(&drop_unbegun, name);
	position = position_of(&end, values);
	values[1] = Int64GetDatum(position);
	(void) evs_query_run(&set_end, values, NULL);
	create_next_cursors(name, position, been_out);
}

/* The definition in the row is another one now: let the cursors and who waits know. */
static void
definition_changed(const char *name)
{
	static EvsQuery partitions_differ = {
		"select from evsource.subscriptions s where s.subscription = $1 and s.partitions <>"
		" (select c.partitions from evsource.cursors c where c.subscription = $1"
		"  order by c.generation desc limit 1)",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	static EvsQuery number = {
		"update evsource.cursors c set definition = s.definition"
		" from evsource.subscriptions s where s.subscription = $1 and c.subscription = $1",
		1, {TEXTOID}, SPI_OK_UPDATE
	};

	if (evs_query_run_by_name(&partitions_differ, name) > 0)
		divide_anew(name);
	(void) evs_query_run_by_name(&number, name);
	evs_wakeup_subscription_changed(name);
}

/*
 * if_exists => 'alter': one that is there becomes what create_subscription() was given,
 * in the order of its statement.  An equal one is left alone, and waits for nobody.
 */
static void
redefine(const char *name, Datum *values, const char *nulls)
{
	static EvsQuery equal = {
		"select from evsource.subscriptions where subscription = $1 and owner = coalesce($2, owner)"
		" and categories is not distinct from $3 and types is not distinct from $4"
		" and partitions = $5 and max_attempts = $6",
		6, {TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, INT4OID, INT4OID}, SPI_OK_SELECT
	};
	static EvsQuery update = {
		"update evsource.subscriptions set owner = coalesce($2, owner), categories = $3, types = $4,"
		" partitions = $5, max_attempts = $6, definition = definition + 1 where subscription = $1",
		6, {TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, INT4OID, INT4OID}, SPI_OK_UPDATE
	};

	if (evs_query_run(&equal, values, nulls) > 0)
		return;
	evs_require_read_committed("alter a subscription");
	(void) evs_subscription_open_for_change(name, false);
	(void) evs_query_run(&update, values, nulls);
	definition_changed(name);
}

static bool
exists(const char *name)
{
	static EvsQuery query = {
		"select from evsource.subscriptions where subscription = $1", 1, {TEXTOID}, SPI_OK_SELECT
	};

	return evs_query_run_by_name(&query, name) == 1;
}

/*
 * evsource.create_subscription(subscription, categories, types, start,
 * start_after, partitions, max_attempts, if_exists, owner) returns text
 *
 * Errors: 42710 when there is one of that name, 22004, 22023, 42501; with if_exists =>
 * 'alter' those of alter_subscription.
 */
Datum
evsource_create_subscription(PG_FUNCTION_ARGS)
{
	static EvsQuery insert = {
		"insert into evsource.subscriptions"
		" (subscription, owner, categories, types, partitions, max_attempts, start_after)"
		" values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
		7, {TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, INT4OID, INT4OID, INT8OID}, SPI_OK_INSERT
	};
	static const char *const reactions[] = {"error", "keep", "alter"};
	char	   *name = evs_subscription_name(fcinfo, 0);
	char	   *if_exists = evs_argument_text(fcinfo, 7);
	char	   *owner = owner_argument(fcinfo, 8);
	int			reaction = if_exists == NULL ? 0 :
		evs_parameter_word("if_exists", if_exists, reactions, lengthof(reactions));
	int64		start = start_argument(fcinfo, 3, 4);
	char		nulls[] = "       ";
	Datum		values[7];

	evs_require_writable("evsource.create_subscription()");
	values[0] = CStringGetTextDatum(name);
	values[1] = CStringGetTextDatum(owner ? owner : GetUserNameFromId(GetUserId(), false));
	values[2] = filter_argument(fcinfo, 1, false, &nulls[2]);
	values[3] = filter_argument(fcinfo, 2, true, &nulls[3]);
	values[4] = Int32GetDatum(PG_ARGISNULL(5) ? 1 :
							  count_argument(fcinfo, 5, "partitions", 1, EVS_MAX_SUBSCRIPTION_PARTITIONS));
	values[5] = Int32GetDatum(PG_ARGISNULL(6) ? 5 :
							  count_argument(fcinfo, 6, "max_attempts", 0, PG_INT16_MAX));
	values[6] = Int64GetDatum(start);

	if (evs_query_run(&insert, values, nulls) > 0)
	{
		/* one that was dropped since the transaction began to read is there, too */
		evs_require_seen("subscription", exists(name));
		create_cursors(name, start, 0);
	}
	else if (reaction == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists", name),
				 errhint("if_exists => 'keep' leaves it as it is, if_exists => 'alter' gives it the new definition.")));
	else if (reaction == 1)
		ereport(NOTICE,
				(errmsg("subscription \"%s\" already exists, keeping it", name)));
	else
	{
		if (owner == NULL)
			nulls[1] = 'n';
		redefine(name, values, nulls);
	}
	PG_RETURN_DATUM(values[0]);
}

/*
 * evsource.alter_subscription(subscription, categories, types, partitions,
 * max_attempts, owner, defaults)
 *
 * Errors: 42704, 42501, 22004, 22023, 25000 under REPEATABLE READ, 55P03.
 */
Datum
evsource_alter_subscription(PG_FUNCTION_ARGS)
{
	static EvsQuery update = {
		"update evsource.subscriptions set"
		" categories = case when 'categories' = any ($7) then null else coalesce($2, categories) end,"
		" types = case when 'types' = any ($7) then null else coalesce($3, types) end,"
		" partitions = coalesce($4, partitions), max_attempts = coalesce($5, max_attempts),"
		" owner = coalesce($6, owner), definition = definition + 1"
		" where subscription = $1",
		7, {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, INT4OID, INT4OID, TEXTOID, TEXTARRAYOID}, SPI_OK_UPDATE
	};
	static const char *const words[] = {"categories", "types"};
	char	   *name = evs_subscription_name(fcinfo, 0);
	char	   *owner = owner_argument(fcinfo, 5);
	char		nulls[] = "       ";
	Datum		values[7];

	evs_require_writable("evsource.alter_subscription()");
	evs_require_read_committed("alter a subscription");
	values[0] = CStringGetTextDatum(name);
	values[1] = filter_argument(fcinfo, 1, false, &nulls[1]);
	values[2] = filter_argument(fcinfo, 2, true, &nulls[2]);
	nulls[3] = PG_ARGISNULL(3) ? 'n' : ' ';
	values[3] = PG_ARGISNULL(3) ? (Datum) 0 :
		Int32GetDatum(count_argument(fcinfo, 3, "partitions", 1, EVS_MAX_SUBSCRIPTION_PARTITIONS));
	nulls[4] = PG_ARGISNULL(4) ? 'n' : ' ';
	values[4] = PG_ARGISNULL(4) ? (Datum) 0 :
		Int32GetDatum(count_argument(fcinfo, 4, "max_attempts", 0, PG_INT16_MAX));
	nulls[5] = owner == NULL ? 'n' : ' ';
	values[5] = owner == NULL ? (Datum) 0 : CStringGetTextDatum(owner);
	nulls[6] = PG_ARGISNULL(6) ? 'n' : ' ';
	values[6] = (Datum) 0;
	if (!PG_ARGISNULL(6))
	{
		EvsFilter	given;

		values[6] = PG_GETARG_DATUM(6);
		evs_filter_from_arrays(&given, NULL, PG_GETARG_ARRAYTYPE_P(6));
		for (int i = 0; i < given.ntypes; i++)
			(void) evs_parameter_word("defaults", text_to_cstring(given.types[i]),
									  words, lengthof(words));
	}

	(void) evs_subscription_open_for_change(name, false);
	(void) evs_query_run(&update, values, nulls);
	definition_changed(name);
	PG_RETURN_VOID();
}

/*
 * evsource.drop_subscription(subscription, if_exists) returns void
 *
 * Errors: 42704 unless if_exists, 42501, 55P03.
 */
Datum
evsource_drop_subscription(PG_FUNCTION_ARGS)
{
	static EvsQuery definition = {
		"delete from evsource.subscriptions where subscription = $1", 1, {TEXTOID}, SPI_OK_DELETE
	};
	char	   *name = evs_subscription_name(fcinfo, 0);

	evs_require_writable("evsource.drop_subscription()");
	/* another session may drop it while it is waited for */
	if (!evs_subscription_open_for_change(name, evs_argument_bool(fcinfo, 1, false)))
	{
		ereport(NOTICE,
				(errmsg("subscription \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	drop_cursors(name);
	drop_dead_letters(name, 0);
	(void) evs_query_run_by_name(&definition, name);
	evs_wakeup_subscription_changed(name);
	PG_RETURN_VOID();
}

/* Just before the first event that was recorded at that time or later. */
static int64
position_at(Datum as_of)
{
	static EvsQuery query = {
		"select e.position - 1 from evsource.events e where e.recorded_at >= $1"
		" order by e.position limit 1",
		1, {TIMESTAMPTZOID}, SPI_OK_SELECT
	};
	int64		safe = evs_horizon_safe_position();
	int64		before = DatumGetInt64(evs_query_value(&query, &as_of, NULL, InvalidSnapshot,
														Int64GetDatum(safe)));

	return Min(safe, before);
}

/*
 * evsource.seek_subscription(subscription, after_position, as_of) returns bigint
 *
 * What comes after the position is handed out next, again or at once.  What is
 * out is forgotten, its receipts are no good any more.
 *
 * Errors: 42704, 42501, 22004 when neither is given, 22023, 55P03.
 */
Datum
evsource_seek_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = evs_subscription_name(fcinfo, 0);
	int64		position;

	evs_require_writable("evsource.seek_subscription()");
	evs_require_read_committed("move a subscription");
	if (PG_ARGISNULL(1) == PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(PG_ARGISNULL(1) ? ERRCODE_NULL_VALUE_NOT_ALLOWED :
						 ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("exactly one of after_position and as_of must be given"),
				 errhint("Pass after_position => 0 to start from the beginning.")));
	(void) evs_subscription_open_for_change(name, false);
	if (PG_ARGISNULL(1))
		position = position_at(PG_GETARG_DATUM(2));
	else
	{
		position = PG_GETARG_INT64(1);
		check_position(position, "after_position");
	}

	drop_cursors(name);
	drop_dead_letters(name, position);
	create_next_cursors(name, position, 0);
	evs_wakeup_subscription_changed(name);
	PG_RETURN_INT64(position);
}

/*
 * evsource.retry_subscription_dead_letters(subscription, stream) returns bigint
 *
 * Dead letters are handed out again, those of one stream or all.  Returns how
 * many.  Errors: 42704, 42501, 55P03.
 */
Datum
evsource_retry_subscription(PG_FUNCTION_ARGS)
{
	static EvsQuery query = {
		"update evsource.subscription_dead_letters set retry = true"
		" where subscription = $1 and ($2 is null or stream = $2)",
		2, {TEXTOID, TEXTOID}, SPI_OK_UPDATE
	};
	char	   *name = evs_subscription_name(fcinfo, 0);
	Datum		values[2];
	uint64		count;

	evs_require_writable("evsource.retry_subscription_dead_letters()");
	(void) evs_subscription_open_for_change(name, false);
	values[0] = CStringGetTextDatum(name);
	values[1] = PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1);
	count = evs_query_run(&query, values, PG_ARGISNULL(1) ? " n" : NULL);
	evs_wakeup_subscription_changed(name);
	PG_RETURN_INT64((int64) count);
}
