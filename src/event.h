/*
 * event.h - an event as a row: to and from tuples, and the ids that need no
 * storage.
 */
#ifndef EVS_EVENT_H
#define EVS_EVENT_H

#include "evsource.h"

#include "access/htup.h"
#include "executor/tuptable.h"
#include "port/pg_bswap.h"

/* ids carry the position in 48 bits; evsource.position_seq ends there */
#define EVS_MAX_POSITION		((INT64CONST(1) << 48) - 1)

/* appends go on above what is restored: a million a second for 12 days at least */
#define EVS_MAX_RESTORED_POSITION	(EVS_MAX_POSITION - (INT64CONST(1) << 40))

/* columns of the table evsource.events */
#define EVS_EVENTS_POSITION		1
#define EVS_EVENTS_VERSION		2
#define EVS_EVENTS_RECORDED_AT	3
#define EVS_EVENTS_STREAM		4
#define EVS_EVENTS_TYPE			5
#define EVS_EVENTS_DATA			6
#define EVS_EVENTS_METADATA		7
#define EVS_EVENTS_ID			8
#define EVS_EVENTS_OCCURRED_AT	9
#define EVS_EVENTS_SCHEMA_VERSION	10
#define EVS_EVENTS_NATTS		10

/* columns of the composite type evsource.event, which readers and handlers see */
#define EVS_EVENT_POSITION		1
#define EVS_EVENT_STREAM		2
#define EVS_EVENT_VERSION		3
#define EVS_EVENT_TYPE			4
#define EVS_EVENT_DATA			5
#define EVS_EVENT_METADATA		6
#define EVS_EVENT_ID			7
#define EVS_EVENT_OCCURRED_AT	8
#define EVS_EVENT_RECORDED_AT	9
#define EVS_EVENT_NATTS			9

/* ---- what ids are made of ---- */

/* A stored byte order, so that ids outlive a move to another architecture. */
static inline void
evs_put_big_endian(unsigned char *to, uint64 value, int bytes)
{
	value = pg_hton64(value << (64 - 8 * bytes));
	memcpy(to, &value, bytes);
}

static inline uint64
evs_get_big_endian(const unsigned char *from, int bytes)
{
	uint64		value = 0;

	memcpy((unsigned char *) &value + 8 - bytes, from, bytes);
	return pg_ntoh64(value);
}

/* The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit moves half of the others. */
static inline uint64
evs_mix(uint64 x)
{
	x = (x ^ (x >> 30)) * UINT64CONST(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64CONST(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* ---- */

extern void evs_event_init(void);

/* Fill an event from a slot of evsource.events; varlenas are detoasted. */
extern void evs_event_from_slot(EvsEvent *event, TupleTableSlot *slot);

/* Values in the order of evsource.events: what is stored. */
extern void evs_event_stored_values(const EvsEvent *event, Datum *values, bool *nulls);

/*
 * Values in the order of evsource.event: what is read.  The id is computed when
 * the client gave none, metadata is '{}' when there is none, occurred_at is
 * recorded_at when none was given.  The id's Datum points into *id; without that
 * it is null.
 */
extern void evs_event_values(const EvsEvent *event, Datum *values, bool *nulls,
							 pg_uuid_t *id);

/* '{}', which readers see when there is no metadata. */
extern Datum evs_event_no_metadata(void);

/* The event as a Datum of type evsource.event, in CurrentMemoryContext. */
extern Datum evs_event_datum(const EvsEvent *event);

/* The event's id: the client's, or the one computed from its position. */
extern void evs_event_id(const EvsEvent *event, pg_uuid_t *id);

/* The position inside an id that this store could have made; 0 if it could not. */
extern int64 evs_event_id_position(const pg_uuid_t *id);

/* A deep copy in CurrentMemoryContext. */
extern void evs_event_copy(EvsEvent *to, const EvsEvent *from);

/* The bytes that such a copy takes, more or less, once data is not toasted any more. */
extern Size evs_event_size(const EvsEvent *event);

/* The category of a stream: its length in bytes; the category is a prefix. */
extern int	evs_category_length(const char *stream, int length);

/* When it happened, as far as is known. */
static inline TimestampTz
evs_event_time(const EvsEvent *event)
{
	return event->has_occurred_at ? event->occurred_at : event->recorded_at;
}

#endif							/* EVS_EVENT_H */
