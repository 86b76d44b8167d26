/*
 * executed.c - commands that were executed already: what their ids tell.
 *
 * The events of a command with an id get ids derived from its own, so the log
 * itself remembers it, at no cost.  Only where that does not tell (it had no
 * events, or its decider gave them ids) there is a row in evsource.commands.
 *
 * An id stands for one command.  That is what it was when it comes again, and for
 * that the last bytes of each derived id are a fingerprint of it: one wrong command
 * in 65536 is taken for the right one.  Ids are told apart by their first six bytes,
 * which the derived ones keep, and by a hash of 58 bits.
 */
#include "executed.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "event.h"
#include "query.h"
#include "rights.h"
#include "scan.h"
#include "store.h"

/* columns of evsource.commands */
#define COMMANDS_COMMAND_ID		1
#define COMMANDS_STREAM			2
#define COMMANDS_VERSION		3
#define COMMANDS_EVENT_COUNT	4
#define COMMANDS_FINGERPRINT	5

/* the bytes of a derived id before the fingerprint */
#define ID_BYTES	(UUID_LEN - sizeof(uint16))

/* ---- the ids of its events ---- */

/* FNV-1a: the bytes decide, and not the machine, as with the hashes of PostgreSQL. */
static uint64
hash_bytes_anywhere(uint64 hash, const void *bytes, int length)
{
	const unsigned char *next = bytes;

	for (int i = 0; i < length; i++)
		hash = (hash ^ next[i]) * UINT64CONST(0x100000001b3);
	return hash;
}

/* A string, and where it ends. */
static uint64
hash_string(uint64 hash, const char *string, int length)
{
	hash = hash_bytes_anywhere(hash, string, length);
	return hash_bytes_anywhere(hash, "", 1);
}

static uint64
hash_scalar(uint64 hash, const JsonbValue *value)
{
	const char *number;

	switch (value->type)
	{
		case jbvString:
			return hash_string(hash, value->val.string.val, value->val.string.len);
		case jbvNumeric:
			/* 1.0 is 1 */
			number = numeric_normalize(value->val.numeric);
			return hash_string(hash, number, strlen(number));
		case jbvBool:
			return hash_string(hash, value->val.boolean ? "t" : "f", 1);
		default:
			return hash;
	}
}

uint16
evs_executed_fingerprint(const char *decider, Jsonb *command)
{
	JsonbIterator *iterator = JsonbIteratorInit(&command->root);
	uint64		hash = hash_string(UINT64CONST(0xcbf29ce484222325), decider, strlen(decider));
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		bool		has_value = token == WJB_KEY || token == WJB_VALUE || token == WJB_ELEM;
		bool		is_bare = token == WJB_BEGIN_ARRAY && value.val.array.rawScalar;
		unsigned char kinds[] = {token, has_value ? value.type : is_bare};

		hash = hash_bytes_anywhere(hash, kinds, sizeof(kinds));
		if (has_value)
			hash = hash_scalar(hash, &value);
	}
	return (uint16) evs_mix(hash);
}

/*
 * A UUID of version 8 (RFC 9562).  It begins as the command's id does, so that ids
 * which grow with time go on doing so; the rest is a hash of that id and n, and the
 * fingerprint.
 */
void
evs_executed_event_id(const EvsCommandId *command, int64 n, pg_uuid_t *id)
{
	uint64		high = evs_get_big_endian(command->id.data, 8);
	uint64		low = evs_get_big_endian(command->id.data + 8, 8);

	high = evs_mix(high ^ evs_mix(low ^ evs_mix((uint64) n)));
	low = evs_mix(low ^ high);
	memcpy(id->data, command->id.data, 6);
	evs_put_big_endian(id->data + 6, 0x8000 | (high & 0x0FFF), 2);
	evs_put_big_endian(id->data + 8, UINT64CONST(1) << 63 | low >> 2, 8);
	evs_put_big_endian(id->data + ID_BYTES, command->fingerprint, UUID_LEN - ID_BYTES);
}

/* ---- whether it is the same command ---- */

static void
report_other(const EvsCommandId *command, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_EVS_DUPLICATE_EVENT_ID),
			 errmsg("command id \"%s\" was used for another command",
					DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&command->id)))),
			 errdetail_internal("%s", detail),
			 errhint("Give each command an id of its own.")));
}

/*
 * The id was used, for a command of this stream that has this fingerprint.  A user who may
 * not read all events is not told in what their own command differs from it.
 */
static void
check_same(const EvsCommandId *command, const text *stream, uint16 fingerprint)
{
	bool		same_stream = evs_same_text(stream, command->stream);

	if (same_stream && fingerprint == command->fingerprint)
		return;
	if (!evs_may_read_all())
		report_other(command, "That command was for another stream or another decider, or said something else.");
	if (!same_stream)
		report_other(command, psprintf("That command was for stream \"%s\".", text_to_cstring(stream)));
	report_other(command, "That command was for the same stream, but said something else or was for another decider.");
}

static uint16
fingerprint_in(const pg_uuid_t *id)
{
	return (uint16) evs_get_big_endian(id->data + ID_BYTES, UUID_LEN - ID_BYTES);
}

/* An event that has the id of the command's first one, but for its fingerprint. */
static EvsEvent *
find_derived(const EvsCommandId *command, Relation events,
			 uint16 first_fingerprint, uint16 last_fingerprint)
{
	pg_uuid_t	first;
	pg_uuid_t	last;

	evs_executed_event_id(command, 1, &first);
	last = first;
	evs_put_big_endian(first.data + ID_BYTES, first_fingerprint, UUID_LEN - ID_BYTES);
	evs_put_big_endian(last.data + ID_BYTES, last_fingerprint, UUID_LEN - ID_BYTES);
	return evs_store_find_between(events, &first, &last);
}

/* ---- finding it ---- */

bool
evs_executed_find_row(const EvsCommandId *command, EvsExecuted *outcome)
{
	Relation	commands = evs_catalog_open(evs_catalog()->commands, AccessShareLock);
	Relation	index = index_open(evs_catalog()->commands_pkey, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(commands, NULL);
	ScanKeyData key;
	bool		found;

	ScanKeyInit(&key, COMMANDS_COMMAND_ID, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(&command->id));
	found = evs_store_fetch(commands, index, &key, 1, slot);
	if (found)
	{
		Datum	   *values = slot->tts_values;

		slot_getsomeattrs(slot, COMMANDS_FINGERPRINT);
		check_same(command, DatumGetTextPP(values[COMMANDS_STREAM - 1]),
				   DatumGetInt32(values[COMMANDS_FINGERPRINT - 1]));
		outcome->version = DatumGetInt64(values[COMMANDS_VERSION - 1]);
		outcome->count = DatumGetInt32(values[COMMANDS_EVENT_COUNT - 1]);
		outcome->stored = false;
	}
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(commands, AccessShareLock);
	return found;
}

/* Is it the id of the command's nth event, but for its fingerprint? */
static bool
is_derived(const EvsCommandId *command, int64 n, const EvsEvent *event)
{
	pg_uuid_t	id;

	evs_executed_event_id(command, n, &id);
	return event->has_id && memcmp(&event->id, &id, ID_BYTES) == 0;
}

/*
 * Which of the command's events the stream begins with, if it does not begin with
 * its first one: the others were truncated.  0: with none.
 */
static int64
find_cut(const EvsCommandId *command, EvsEvent *event)
{
	EvsScan    *scan = evs_scan_stream(command->stream, 1, PG_INT64_MAX, false,
									   GetLatestSnapshot());
	EvsEvent	first;
	int64		found = 0;

	evs_scan_as_stored(scan);
	if (evs_scan_next(scan, &first) && first.version > 1 && first.has_id &&
		memcmp(&first.id, &command->id, 6) == 0)
	{
		for (int64 n = 2; n <= first.version && found == 0; n++)
		{
			CHECK_FOR_INTERRUPTS();
			if (is_derived(command, n, &first))
				found = n;
		}
		evs_event_copy(event, &first);
	}
	evs_scan_end(scan);
	return found;
}

/* Are there events with ids that were derived from the command's? */
static bool
find_events(const EvsCommandId *command, Relation events, EvsExecuted *outcome)
{
	EvsEvent   *first = find_derived(command, events, 0, PG_UINT16_MAX);
	int64		n = 1;
	EvsEvent	cut;
	EvsEvent	event;
	EvsScan    *scan;

	if (first == NULL)
	{
		n = find_cut(command, &cut);
		first = &cut;
	}
	if (n == 0)
		return false;
	check_same(command, first->stream, fingerprint_in(&first->id));

	/* they follow each other: they were appended in one call */
	outcome->version = first->version;
	outcome->count = 1;
	outcome->stored = false;
	scan = evs_scan_stream(command->stream, first->version + 1, PG_INT64_MAX, false,
						   GetLatestSnapshot());
	evs_scan_as_stored(scan);
	while (evs_scan_next(scan, &event) && is_derived(command, n + outcome->count, &event))
	{
		outcome->version = event.version;
		outcome->count++;
	}
	evs_scan_end(scan);
	return true;
}

bool
evs_executed_find(const EvsCommandId *command, Relation events, EvsExecuted *outcome)
{
	return evs_executed_find_row(command, outcome) ||
		find_events(command, events, outcome);
}

/* ---- after it was executed ---- */

/* No event has the id of the command's first one with a fingerprint of this range. */
static void
check_no_event(const EvsCommandId *command, Relation events,
			   int first_fingerprint, int last_fingerprint)
{
	EvsEvent   *other = first_fingerprint > last_fingerprint ? NULL :
		find_derived(command, events, first_fingerprint, last_fingerprint);

	if (other != NULL)
		check_same(command, other->stream, fingerprint_in(&other->id));
}

/* The index of the log's ids sees to those of its own fingerprint. */
static void
check_no_other_event(const EvsCommandId *command, Relation events)
{
	check_no_event(command, events, 0, command->fingerprint - 1);
	check_no_event(command, events, command->fingerprint + 1, PG_UINT16_MAX);
}

void
evs_executed_check_alone(const EvsCommandId *command, Relation events)
{
	EvsExecuted	ignored;

	check_no_other_event(command, events);
	(void) evs_executed_find_row(command, &ignored);
}

void
evs_executed_remember(const EvsCommandId *command, Relation events,
					  const EvsExecuted *outcome)
{
	static EvsQuery query = {
		"insert into evsource.commands (command_id, stream, version, event_count, fingerprint)"
		" values ($1, $2, $3, $4, $5) on conflict do nothing",
		5, {UUIDOID, TEXTOID, INT8OID, INT4OID, INT4OID}, SPI_OK_INSERT
	};
	Datum		values[] = {
		UUIDPGetDatum(&command->id), PointerGetDatum(command->stream),
		Int64GetDatum(outcome->version), Int32GetDatum(outcome->count),
		Int32GetDatum(command->fingerprint)
	};

	/* to the same stream nobody else does while we have its lock */
	if (evs_query_run(&query, values, NULL) == 0)
		report_other(command, "A command for another stream was executed at the same time.");
	check_no_other_event(command, events);
	/* of these there may be one of its own, which passes; it may have none */
	check_no_event(command, events, command->fingerprint, command->fingerprint);
}
