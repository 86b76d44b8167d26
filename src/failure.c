/*
 * failure.c - what projections fail at in the background.
 *
 * A row says at which event a unit is stuck, what the error was, how often it
 * was tried and when it is tried again.  It commits with what was applied
 * before that event, so a crash or another worker goes on with the count.  It
 * goes when the unit gets past the event.
 *
 * Locks: whoever writes a unit's row holds the unit.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "crash_mark.h"
#include "dead_letters.h"
#include "failure.h"
#include "query.h"
#include "settings.h"
#include "wakeup.h"

/* Longer texts of an error are cut. */
#define MAX_TEXT		8192

/* The longest wait between two attempts, in ms. */
#define MAX_RETRY_DELAY	(10 * 60 * 1000)

static EvsQuery write_failure = {
	"insert into evsource.projection_failures as f"
	" (projection, partition, position, attempts, retry_at, failed_at,"
	"  sqlstate, message, detail, hint, context)"
	" values ($1, $2, $3, $4, $5, clock_timestamp(), $6, $7, $8, $9, $10)"
	" on conflict (projection, partition) do update set"
	" position = excluded.position, attempts = excluded.attempts,"
	" retry_at = excluded.retry_at, failed_at = excluded.failed_at,"
	" sqlstate = excluded.sqlstate, message = excluded.message, detail = excluded.detail,"
	" hint = excluded.hint, context = excluded.context",
	10, {TEXTOID, INT4OID, INT8OID, INT4OID, TIMESTAMPTZOID,
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}, SPI_OK_INSERT
};

static EvsQuery note_failure = {
	"insert into evsource.projection_failures as f"
	" (projection, partition, attempts, retry_at, failed_at,"
	"  sqlstate, message, detail, hint, context)"
	" values ($1, $2, 0, clock_timestamp(), clock_timestamp(), $3, $4, $5, $6, $7)"
	" on conflict (projection, partition) do update set failed_at = excluded.failed_at,"
	" sqlstate = excluded.sqlstate, message = excluded.message, detail = excluded.detail,"
	" hint = excluded.hint, context = excluded.context",
	7, {TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}, SPI_OK_INSERT
};

static EvsQuery count_conflict = {
	"update evsource.checkpoints set conflicts = conflicts + 1 where projection = $1",
	1, {TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery clear_failure = {
	"delete from evsource.projection_failures where projection = $1 and partition = $2",
	2, {TEXTOID, INT4OID}, SPI_OK_DELETE
};

static EvsQuery clear_failures = {
	"delete from evsource.projection_failures where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

static EvsQuery rename_failures = {
	"update evsource.projection_failures set projection = $2 where projection = $1",
	2, {TEXTOID, TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery stop_projection = {
	"update evsource.projections set state = 'failed'"
	" where projection = $1 and state in ('active', 'catching_up')",
	1, {TEXTOID}, SPI_OK_UPDATE
};

bool
evs_failure_is_transient(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:	/* 08: a server that the handler talks to */
		case ERRCODE_TRANSACTION_ROLLBACK:	/* 40: serialization, deadlock */
		case ERRCODE_INSUFFICIENT_RESOURCES:	/* 53: disk, memory, connections */
		case ERRCODE_OPERATOR_INTERVENTION: /* 57: cancel, shutdown */
		case ERRCODE_SYSTEM_ERROR:	/* 58: I/O */
			return true;
		default:
			return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
				sqlerrcode == ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION;
	}
}

/* Its SQLSTATE is that of all limits.  The message is as it was before any translation. */
static bool
is_of_full_queue(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED && error->message_id != NULL &&
		strcmp(error->message_id, "too many notifications in the NOTIFY queue") == 0;
}

bool
evs_failure_is_transient_at_commit(const ErrorData *error)
{
	return evs_failure_is_transient(error->sqlerrcode) || is_of_full_queue(error);
}

/*
 * Functions keep for the life of a session what they know of tables: types of
 * fields, results of plans.  PL/pgSQL does not notice when they change.
 */
bool
evs_failure_may_be_stale(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_DATATYPE_MISMATCH ||
		sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED ||
		sqlerrcode == ERRCODE_INTERNAL_ERROR;
}

/* No conversion, function, column or common type: what PostgreSQL says of a statement, not of data. */
bool
evs_failure_may_be_of_copy(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) ==
		ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION);
}

/* Unsupported features are evsource's own, where they have hints. */
char *
evs_failure_stale_hint(const ErrorData *error)
{
	static const char again[] = "What its handler remembers in this session may be out of date: try again in a new session.";

	if (!evs_failure_may_be_stale(error->sqlerrcode))
		return error->hint;
	if (error->hint == NULL)
		return pstrdup(again);
	if (error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED || strstr(error->hint, again) != NULL)
		return error->hint;
	return psprintf("%s %s", error->hint, again);
}

void
evs_failure_hint_stale(MemoryContext context)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	const char *hint = evs_failure_stale_hint(CopyErrorData());

	if (hint != NULL)
		errhint("%s", hint);
	MemoryContextSwitchTo(caller);
}

/* Was another transaction in the way? */
static bool
is_conflict(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK ||
		sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
}

TimestampTz
evs_failure_retry_at(int attempts)
{
	int64		delay = (int64) evs_async_retry_delay << Min(Max(attempts - 1, 0), 20);

	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Min(delay, MAX_RETRY_DELAY));
}

bool
evs_failure_waits(const EvsFailure *failure)
{
	return failure->exists && failure->retry_at > GetCurrentTimestamp() &&
		failure->retry_at <= evs_failure_retry_at(failure->attempts);
}

static void
set_text(EvsErrorText *text, int column, const char *value)
{
	text->nulls[column] = value ? ' ' : 'n';
	text->values[column] = (Datum) 0;
	if (value != NULL)
	{
		int			length = strlen(value);

		if (length > MAX_TEXT)
			length = pg_mbcliplen(value, length, MAX_TEXT);
		text->values[column] = PointerGetDatum(cstring_to_text_with_len(value, length));
	}
}

void
evs_error_text(const ErrorData *error, EvsErrorText *text)
{
	set_text(text, 0, unpack_sql_state(error->sqlerrcode));
	set_text(text, 1, error->message ? error->message : "");
	set_text(text, 2, error->detail);
	set_text(text, 3, error->hint);
	set_text(text, 4, error->context);
}

void
evs_failure_write(const char *projection, int partition,
				  const EvsFailure *failure, const ErrorData *error)
{
	EvsErrorText text;
	Datum		values[10];
	char		nulls[10];

	evs_error_text(error, &text);
	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(projection);
	values[1] = Int32GetDatum(partition);
	values[2] = Int64GetDatum(failure->position);
	if (failure->position == 0)
		nulls[2] = 'n';
	values[3] = Int32GetDatum(failure->attempts);
	values[4] = TimestampTzGetDatum(failure->retry_at);
	if (failure->retry_at == 0)
		nulls[4] = 'n';
	memcpy(&values[5], text.values, sizeof(text.values));
	memcpy(&nulls[5], text.nulls, sizeof(text.nulls));
	(void) evs_query_run(&write_failure, values, nulls);
}

void
evs_failure_note(const char *projection, int partition, const ErrorData *error)
{
	EvsErrorText text;
	Datum		values[7];
	char		nulls[7];

	evs_error_text(error, &text);
	values[0] = CStringGetTextDatum(projection);
	values[1] = Int32GetDatum(partition);
	nulls[0] = nulls[1] = ' ';
	memcpy(&values[2], text.values, sizeof(text.values));
	memcpy(&nulls[2], text.nulls, sizeof(text.nulls));
	(void) evs_query_run(&note_failure, values, nulls);
	if (is_conflict(error->sqlerrcode))
		(void) evs_query_run(&count_conflict, values, NULL);
}

void
evs_failure_clear(const char *projection, int partition)
{
	Datum		values[] = {CStringGetTextDatum(projection), Int32GetDatum(partition)};

	(void) evs_query_run(&clear_failure, values, NULL);
}

void
evs_failures_clear(const char *projection)
{
	(void) evs_query_run_by_name(&clear_failures, projection);
	evs_crash_marks_clear(projection);
}

void
evs_failure_stop(const char *projection)
{
	(void) evs_query_run_by_name(&stop_projection, projection);
	evs_wakeup_projection(projection);
}

void
evs_troubles_clear(const char *projection)
{
	evs_failures_clear(projection);
	evs_dead_letters_clear(projection);
}

static void
rename_troubles(const char *from, const char *to)
{
	Datum		values[] = {CStringGetTextDatum(from), CStringGetTextDatum(to)};

	(void) evs_query_run(&rename_failures, values, NULL);
	evs_dead_letters_rename(from, to);
}

void
evs_troubles_exchange(const char *one, const char *other)
{
	/* longer than any name may be */
	char	   *aside = psprintf("%0*d", NAMEDATALEN, 0);

	rename_troubles(one, aside);
	rename_troubles(other, one);
	rename_troubles(aside, other);
}
