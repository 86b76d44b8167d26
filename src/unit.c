/*
 * unit.c - what one worker works on: an async projection, or a partition of it.
 *
 * Locks: the projection's name, exclusively if it is not divided.  Workers on
 * partitions share it, and each has its partition's lock besides: so whoever
 * changes, rebuilds or runs the whole projection, which takes the name
 * exclusively, excludes them all.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "barrier.h"
#include "catalog.h"
#include "dead_letters.h"
#include "query.h"
#include "restore.h"
#include "unit.h"
#include "wakeup.h"

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

static EvsQuery lock_whole = {
	"select from evsource.checkpoints where projection = $1 and $2 = 0"
	" for no key update skip locked",
	2, {TEXTOID, INT4OID}, SPI_OK_SELECT
};

static EvsQuery lock_partition = {
	"select from evsource.partitions where projection = $1 and partition = $2"
	" for no key update skip locked",
	2, {TEXTOID, INT4OID}, SPI_OK_SELECT
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

/* In one statement: workers go on meanwhile. */
static EvsQuery count_all = {
	"select c.event_count + (evsource._projection_lag(c.projection, 9223372036854775807)).lag"
	" from evsource._checkpoints c where c.projection = $1",
	1, {TEXTOID}, SPI_OK_SELECT
};

PG_FUNCTION_INFO_V1(evsource_partition);

bool
evs_unit_try_lock(const EvsProjection *projection, int partition)
{
	if (projection->partitions == 1)
		return evs_registry_try_lock(projection->name);
	return evs_registry_try_share(projection->name, partition);
}

/*
 * A row, by the first column or the first two of the primary key.  A batch begins
 * with three of these: by SQL they took a third of what a small one costs.
 */
typedef struct Lookup
{
	Relation	table;
	Snapshot	snapshot;
	SysScanDesc scan;
	HeapTuple	row;			/* NULL: there is none */
} Lookup;

static bool
look_up(Lookup *lookup, const char *table, int nkeys, const char *projection, int partition)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(projection));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(partition));
	lookup->table = table_open(get_relname_relid(table, evs_catalog()->schema), AccessShareLock);
	lookup->snapshot = RegisterSnapshot(GetTransactionSnapshot());
	lookup->scan = systable_beginscan(lookup->table,
									  RelationGetPrimaryKeyIndex(lookup->table, false), true,
									  lookup->snapshot, nkeys, keys);
	lookup->row = systable_getnext(lookup->scan);
	return lookup->row != NULL;
}

static void
look_up_end(Lookup *lookup)
{
	systable_endscan(lookup->scan);
	UnregisterSnapshot(lookup->snapshot);
	table_close(lookup->table, AccessShareLock);
}

/* A column of the row; 0 when it is null. */
static Datum
column(const Lookup *lookup, int number)
{
	bool		is_null;
	Datum		value = heap_getattr(lookup->row, number, RelationGetDescr(lookup->table), &is_null);

	return is_null ? (Datum) 0 : value;
}

static int64
bigint_column(const Lookup *lookup, int number)
{
	Datum		value = column(lookup, number);

	return value == (Datum) 0 ? 0 : DatumGetInt64(value);
}

/* What is in the way of the unit: see the tables in sql/async.sql. */
static void
read_stuck(EvsUnit *unit)
{
	Lookup		lookup;

	memset(&unit->failure, 0, sizeof(EvsFailure));
	unit->failure.exists = look_up(&lookup, "projection_failures", 2, unit->projection,
								   unit->partition);
	if (unit->failure.exists)
	{
		unit->failure.position = bigint_column(&lookup, 3);
		unit->failure.attempts = DatumGetInt32(column(&lookup, 4));
		unit->failure.retry_at = bigint_column(&lookup, 11);
	}
	look_up_end(&lookup);
	unit->has_dead_letters = look_up(&lookup, "dead_letters", 1, unit->projection, 0);
	look_up_end(&lookup);
	unit->has_released = unit->has_dead_letters && evs_dead_letters_released(unit);
}

void
evs_unit_read(const EvsProjection *projection, int partition, EvsUnit *unit)
{
	bool		whole = projection->partitions == 1;
	Lookup		lookup;

	unit->projection = projection->name;
	unit->partition = partition;
	unit->partitions = projection->partitions;

	/* what the transaction has done so far counts */
	CommandCounterIncrement();
	if (!look_up(&lookup, whole ? "checkpoints" : "partitions", whole ? 1 : 2,
				 projection->name, partition))
	{
		evs_require_seen("projection", false);
		elog(ERROR, "projection \"%s\" has no checkpoint for partition %d",
			 projection->name, partition);
	}
	unit->checkpoint.position = bigint_column(&lookup, whole ? 2 : 3);
	unit->checkpoint.event_count = bigint_column(&lookup, whole ? 3 : 4);
	look_up_end(&lookup);
	read_stuck(unit);
}

void
evs_unit_read_troubles(const char *name, EvsUnit *unit)
{
	unit->projection = name;
	unit->partition = 0;
	unit->partitions = 1;
	CommandCounterIncrement();
	read_stuck(unit);
}

bool
evs_unit_try_lock_row(const EvsUnit *unit)
{
	Datum		values[] = {CStringGetTextDatum(unit->projection), Int32GetDatum(unit->partition)};

	return evs_query_run(unit->partitions == 1 ? &lock_whole : &lock_partition, values, NULL) == 1;
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

int64
evs_units_furthest(const EvsProjection *projection)
{
	int64		furthest = 0;

	for (int i = 0; i < projection->partitions; i++)
	{
		EvsUnit		unit;

		evs_unit_read(projection, i, &unit);
		furthest = Max(furthest, unit.checkpoint.position);
	}
	return furthest;
}

int64
evs_units_total(const EvsProjection *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection->name)};

	return DatumGetInt64(evs_query_value_latest(&count_all, values, NULL, Int64GetDatum(0)));
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
	(void) evs_query_run_by_name(&delete_partitions, projection);
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
				 errmsg("partitions must be positive"),
				 errdetail("It is %d.", partitions),
				 errhint("Pass 1 for no partitions.")));
	PG_RETURN_INT32(evs_partition_of(PG_GETARG_TEXT_PP(0), partitions));
}
