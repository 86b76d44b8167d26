/*
 * unit.c - what one worker works on: an async projection, or a partition of it.
 *
 * Locks: the projection's name, exclusively if it is not divided.  Workers on
 * partitions share it, and each has its partition's lock besides: so whoever
 * changes, rebuilds or runs the whole projection, which takes the name
 * exclusively, excludes them all.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "query.h"
#include "restore.h"
#include "unit.h"
#include "wakeup.h"

#define STUCK_COLUMNS \
	" f.projection is not null, coalesce(f.position, 0), coalesce(f.attempts, 0), f.retry_at," \
	" exists (select from evsource.dead_letters d where d.projection = $1)"

#define STUCK_TABLE \
	" left join evsource.projection_failures f on f.projection = $1 and f.partition = $2"

static EvsQuery read_whole = {
	"select c.position, c.event_count," STUCK_COLUMNS
	" from evsource.checkpoints c" STUCK_TABLE
	" where c.projection = $1",
	2, {TEXTOID, INT4OID}, SPI_OK_SELECT
};

static EvsQuery read_partition = {
	"select p.position, p.event_count," STUCK_COLUMNS
	" from evsource.partitions p" STUCK_TABLE
	" where p.projection = $1 and p.partition = $2",
	2, {TEXTOID, INT4OID}, SPI_OK_SELECT
};

static EvsQuery read_troubles = {
	"select" STUCK_COLUMNS " from (select) c" STUCK_TABLE,
	2, {TEXTOID, INT4OID}, SPI_OK_SELECT
};

static EvsQuery write_whole = {
	"update evsource.checkpoints"
	" set position = $3, event_count = $4, updated_at = clock_timestamp()"
	" where projection = $1 and $2 = 0",
	4, {TEXTOID, INT4OID, INT8OID, INT8OID}, SPI_OK_UPDATE
};

static EvsQuery write_partition = {
	"update evsource.partitions"
	" set position = $3, event_count = $4, updated_at = clock_timestamp()"
	" where projection = $1 and partition = $2",
	4, {TEXTOID, INT4OID, INT8OID, INT8OID}, SPI_OK_UPDATE
};

static EvsQuery create_partitions = {
	"insert into evsource.partitions (projection, partition, position, event_count)"
	" select c.projection, n, c.position, 0"
	" from evsource.checkpoints c, generate_series(0, $2 - 1) n"
	" where c.projection = $1",
	2, {TEXTOID, INT4OID}, SPI_OK_INSERT
};

static EvsQuery delete_partitions = {
	"delete from evsource.partitions where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

PG_FUNCTION_INFO_V1(evsource_partition);

bool
evs_unit_try_lock(const EvsProjection *projection, int partition)
{
	if (projection->partitions == 1)
		return evs_registry_try_lock(projection->name);
	return evs_registry_try_share(projection->name, partition);
}

static Datum
column(const EvsQueryResult *result, int number, bool *is_null)
{
	return SPI_getbinval(result->rows[0], result->tupdesc, number, is_null);
}

/* The columns of STUCK_COLUMNS, from this one on. */
static void
read_stuck(const EvsQueryResult *result, int first, EvsUnit *unit)
{
	bool		is_null;

	unit->failure.exists = DatumGetBool(column(result, first, &is_null));
	unit->failure.position = DatumGetInt64(column(result, first + 1, &is_null));
	unit->failure.attempts = DatumGetInt32(column(result, first + 2, &is_null));
	unit->failure.retry_at = DatumGetTimestampTz(column(result, first + 3, &is_null));
	if (is_null)
		unit->failure.retry_at = 0;
	unit->has_dead_letters = DatumGetBool(column(result, first + 4, &is_null));
}

void
evs_unit_read(const EvsProjection *projection, int partition, EvsUnit *unit)
{
	Datum		values[] = {CStringGetTextDatum(projection->name), Int32GetDatum(partition)};
	EvsQueryResult result;
	bool		is_null;

	unit->projection = projection->name;
	unit->partition = partition;
	unit->partitions = projection->partitions;

	evs_query_begin(projection->partitions == 1 ? &read_whole : &read_partition,
					values, NULL, InvalidSnapshot, &result);
	if (result.count != 1)
		elog(ERROR, "projection \"%s\" has %llu checkpoints for partition %d",
			 projection->name, (unsigned long long) result.count, partition);
	unit->checkpoint.position = DatumGetInt64(column(&result, 1, &is_null));
	unit->checkpoint.event_count = DatumGetInt64(column(&result, 2, &is_null));
	read_stuck(&result, 3, unit);
	evs_query_end(&result);
}

void
evs_unit_read_troubles(const char *name, EvsUnit *unit)
{
	Datum		values[] = {CStringGetTextDatum(name), Int32GetDatum(0)};
	EvsQueryResult result;

	unit->projection = name;
	unit->partition = 0;
	unit->partitions = 1;
	evs_query_begin(&read_troubles, values, NULL, InvalidSnapshot, &result);
	read_stuck(&result, 1, unit);
	evs_query_end(&result);
}

void
evs_unit_write(const EvsUnit *unit)
{
	Datum		values[] = {
		CStringGetTextDatum(unit->projection), Int32GetDatum(unit->partition),
		Int64GetDatum(unit->checkpoint.position), Int64GetDatum(unit->checkpoint.event_count)
	};

	if (evs_query_run(unit->partitions == 1 ? &write_whole : &write_partition,
					  values, NULL) != 1)
		elog(ERROR, "projection \"%s\" has no checkpoint for partition %d",
			 unit->projection, unit->partition);
	evs_restore_followed(unit->checkpoint.position);
	evs_wakeup_projection(unit->projection);
}

int64
evs_unit_whole_position(const EvsUnit *unit)
{
	EvsCheckpoint checkpoint = unit->checkpoint;

	if (unit->partitions > 1)
		evs_checkpoint_read(unit->projection, &checkpoint);
	return checkpoint.position;
}

void
evs_units_create(const EvsProjection *projection)
{
	Datum		values[] = {
		CStringGetTextDatum(projection->name), Int32GetDatum(projection->partitions)
	};

	if (projection->partitions > 1)
		(void) evs_query_run(&create_partitions, values, NULL);
}

void
evs_units_delete(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	(void) evs_query_run(&delete_partitions, values, NULL);
}

/*
 * FNV-1a, and then the bits mixed (as MurmurHash3 ends): PostgreSQL's own hash
 * functions give other values on other machines.
 */
int
evs_partition_of(const text *stream, int partitions)
{
	const unsigned char *bytes = (const unsigned char *) VARDATA_ANY(stream);
	int			length = VARSIZE_ANY_EXHDR(stream);
	uint64		hash = UINT64CONST(0xcbf29ce484222325);

	for (int i = 0; i < length; i++)
		hash = (hash ^ bytes[i]) * UINT64CONST(0x100000001b3);
	hash ^= hash >> 33;
	hash *= UINT64CONST(0xff51afd7ed558ccd);
	hash ^= hash >> 33;

	return (int) (hash % (uint64) partitions);
}

/*
 * evsource._partition(stream, partitions) returns integer
 *
 * Error: 22023 when there are less than one.
 */
Datum
evsource_partition(PG_FUNCTION_ARGS)
{
	int			partitions = PG_GETARG_INT32(1);

	if (partitions < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partitions must be positive")));
	PG_RETURN_INT32(evs_partition_of(PG_GETARG_TEXT_PP(0), partitions));
}
