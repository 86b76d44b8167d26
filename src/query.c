/*
 * query.c - constant SQL on evsource's own tables; and commands.
 *
 * Nobody but their owner has rights on these tables: neither appenders, nor
 * the owners of projections, nor those who ask for a state.  What evsource
 * itself writes there is written here, as the owner, with a search_path that
 * holds nothing but pg_catalog.  No expression of a user's own is ever part of
 * such a statement.
 *
 * Plans are kept for the session.  PostgreSQL plans them again when a table
 * changes, or is another one after DROP and CREATE EXTENSION.
 */
#include "query.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"

Oid
evs_query_owner(void)
{
	return evs_catalog_owner();
}

/* Plan the statement if it has no plan yet.  SPI is connected. */
static void
prepare(EvsQuery *query)
{
	SPIPlanPtr	plan;

	if (query->plan != NULL)
		return;
	Assert(query->nargs <= EVS_QUERY_MAX_ARGUMENTS);

	plan = SPI_prepare(query->sql, query->nargs, query->argtypes);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s: %s",
			 SPI_result_code_string(SPI_result), query->sql);
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "SPI_keepplan failed: %s", query->sql);
	query->plan = plan;
}

/* How a statement begins: so many bytes, and the rest of the word. */
#define BEGINNING	40

static const char *
beginning_of(const char *statement)
{
	size_t		length = strlen(statement);
	size_t		end = BEGINNING;

	if (length <= 2 * BEGINNING)
		return statement;
	while (end < length && statement[end] != ' ')
		end++;
	return psprintf("%.*s ...", (int) end, statement);
}

void
evs_query_rethrow(MemoryContext context, const char *statement, const char *what)
{
	ErrorData  *error;
	char	   *found;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	found = error->context == NULL ? NULL : strstr(error->context, statement);
	if (found != NULL)
		error->context = psprintf("%.*s%s%s", (int) (found - error->context), error->context,
								  what != NULL ? what : beginning_of(statement),
								  found + strlen(statement));
	/* what the caller has made for us in its PG_CATCH block goes now */
	FlushErrorState();
	ReThrowError(error);
}

static void
execute(EvsQuery *query, Datum *values, const char *nulls, Snapshot snapshot, bool latest,
		EvsQueryResult *result)
{
	bool		reads = snapshot != InvalidSnapshot;
	volatile int code = 0;		/* set under PG_TRY */

	result->context = CurrentMemoryContext;
	evs_identity_enter(&result->identity,
					   GetUserNameFromId(evs_query_owner(), false),
					   "pg_catalog, pg_temp");
	/* each time, for it may be planned again each time */
	if (query->by_index)
		(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	prepare(query);

	PG_TRY();
	{
		code = SPI_execute_snapshot(query->plan, values, nulls,
									latest ? GetLatestSnapshot() : snapshot,
									InvalidSnapshot, reads, true, 0);
	}
	PG_CATCH();
	{
		evs_query_rethrow(result->context, query->sql, NULL);
	}
	PG_END_TRY();
	if (code != query->expected)
		elog(ERROR, "SPI_execute_snapshot: %s: %s",
			 SPI_result_code_string(code), query->sql);

	result->count = SPI_processed;
	result->tupdesc = SPI_tuptable ? SPI_tuptable->tupdesc : NULL;
	result->rows = SPI_tuptable ? SPI_tuptable->vals : NULL;
}

void
evs_query_begin(EvsQuery *query, Datum *values, const char *nulls,
				Snapshot snapshot, EvsQueryResult *result)
{
	execute(query, values, nulls, snapshot, false, result);
}

void
evs_query_end(EvsQueryResult *result)
{
	SPI_finish();
	evs_identity_leave(&result->identity);
}

static Datum
column_of(const EvsQueryResult *result, uint64 row, int column, Oid type, bool *is_null)
{
	Assert(row < result->count);
	Assert(SPI_gettypeid(result->tupdesc, column) == type);
	return SPI_getbinval(result->rows[row], result->tupdesc, column, is_null);
}

int64
evs_query_bigint(const EvsQueryResult *result, uint64 row, int column)
{
	bool		is_null;
	Datum		value = column_of(result, row, column, INT8OID, &is_null);

	return is_null ? 0 : DatumGetInt64(value);
}

int32
evs_query_integer(const EvsQueryResult *result, uint64 row, int column)
{
	bool		is_null;
	Datum		value = column_of(result, row, column, INT4OID, &is_null);

	return is_null ? 0 : DatumGetInt32(value);
}

bool
evs_query_boolean(const EvsQueryResult *result, uint64 row, int column)
{
	bool		is_null;
	Datum		value = column_of(result, row, column, BOOLOID, &is_null);

	return !is_null && DatumGetBool(value);
}

TimestampTz
evs_query_timestamp(const EvsQueryResult *result, uint64 row, int column)
{
	bool		is_null;
	Datum		value = column_of(result, row, column, TIMESTAMPTZOID, &is_null);

	return is_null ? 0 : DatumGetTimestampTz(value);
}

char *
evs_query_text(const EvsQueryResult *result, uint64 row, int column)
{
	char	   *value = SPI_getvalue(result->rows[row], result->tupdesc, column);

	return value == NULL ? NULL : MemoryContextStrdup(result->context, value);
}

List *
evs_query_oids(EvsQuery *query, Datum *values, const char *nulls)
{
	EvsQueryResult result;
	List	   *oids = NIL;

	evs_query_begin(query, values, nulls, InvalidSnapshot, &result);
	for (uint64 row = 0; row < result.count; row++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(result.context);
		bool		is_null;

		oids = lappend_oid(oids, DatumGetObjectId(column_of(&result, row, 1, OIDOID, &is_null)));
		MemoryContextSwitchTo(spi_context);
	}
	evs_query_end(&result);
	return oids;
}

Datum
evs_query_value(EvsQuery *query, Datum *values, const char *nulls, Snapshot snapshot,
				Datum otherwise)
{
	EvsQueryResult result;
	Datum		value = otherwise;

	evs_query_begin(query, values, nulls, snapshot, &result);
	if (result.count > 0)
	{
		Form_pg_attribute attribute = TupleDescAttr(result.tupdesc, 0);
		bool		is_null;
		Datum		found = SPI_getbinval(result.rows[0], result.tupdesc, 1, &is_null);
		MemoryContext spi_context = MemoryContextSwitchTo(result.context);

		if (!is_null)
			value = datumCopy(found, attribute->attbyval, attribute->attlen);
		MemoryContextSwitchTo(spi_context);
	}
	evs_query_end(&result);
	return value;
}

Datum
evs_query_value_latest(EvsQuery *query, Datum *values, const char *nulls, Datum otherwise)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	Datum		value = evs_query_value(query, values, nulls, snapshot, otherwise);

	UnregisterSnapshot(snapshot);
	return value;
}

uint64
evs_query_run(EvsQuery *query, Datum *values, const char *nulls)
{
	EvsQueryResult result;

	evs_query_begin(query, values, nulls, InvalidSnapshot, &result);
	evs_query_end(&result);
	return result.count;
}

uint64
evs_query_run_by_name(EvsQuery *query, const char *name)
{
	Datum		values[] = {CStringGetTextDatum(name)};

	Assert(query->nargs == 1 && query->argtypes[0] == TEXTOID);
	return evs_query_run(query, values, NULL);
}

uint64
evs_query_run_latest(EvsQuery *query, Datum *values, const char *nulls)
{
	EvsQueryResult result;

	execute(query, values, nulls, InvalidSnapshot, true, &result);
	evs_query_end(&result);
	return result.count;
}

static List *
run_for_texts(EvsQuery *query, Datum *values, const char *nulls, bool latest)
{
	EvsQueryResult result;
	List	   *texts = NIL;

	execute(query, values, nulls, InvalidSnapshot, latest, &result);
	for (uint64 row = 0; row < result.count; row++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(result.context);

		texts = lappend(texts, SPI_getvalue(result.rows[row], result.tupdesc, 1));
		MemoryContextSwitchTo(spi_context);
	}
	evs_query_end(&result);
	return texts;
}

List *
evs_query_texts(EvsQuery *query, Datum *values, const char *nulls)
{
	return run_for_texts(query, values, nulls, false);
}

List *
evs_query_texts_latest(EvsQuery *query, Datum *values, const char *nulls)
{
	return run_for_texts(query, values, nulls, true);
}

void
evs_query_command(const char *command)
{
	int			code;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	code = SPI_execute(command, false, 0);
	if (code != SPI_OK_UTILITY)
		elog(ERROR, "SPI_execute: %s: %s", SPI_result_code_string(code), command);
	SPI_finish();
}
