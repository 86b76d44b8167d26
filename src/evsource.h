/*
 * evsource.h - the few words that every room shares.
 *
 * An event travels append -> store -> dispatch -> projection -> snapshot as an
 * EvsEvent, always as part of an EvsBatch, whatever its source was: an SQL call,
 * an INSERT, or a scan of the log.
 */
#ifndef EVSOURCE_H
#define EVSOURCE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "compat.h"
#include "errors.h"

/* One event.  Varlena members are detoasted; NULL metadata means "none". */
typedef struct EvsEvent
{
	int64		position;		/* place in the log; 0 until it is drawn */
	int64		version;		/* place in the stream; 0 until it is known */
	text	   *stream;
	text	   *type;
	Jsonb	   *data;
	Jsonb	   *metadata;		/* NULL: no metadata (read as '{}') */
	TimestampTz recorded_at;	/* when this database took it */
	TimestampTz occurred_at;	/* valid only if has_occurred_at */
	pg_uuid_t	id;				/* the client's id, valid only if has_id */
	bool		has_occurred_at;	/* false: it occurred when it was recorded */
	bool		has_id;			/* false: the id is computed, see event.h */
	int16		schema_version; /* of its type; 0: none given or stored, which is 1 */
} EvsEvent;

/* Events in the order in which they are to be applied. */
typedef struct EvsBatch
{
	EvsEvent   *events;
	int			count;
} EvsBatch;

/* Byte by byte, as the columns of evsource.events compare. */
static inline bool
evs_same_text(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* The order of their bytes, the same in every session. */
static inline int
evs_compare_text(const text *a, const text *b)
{
	int			order = memcmp(VARDATA_ANY(a), VARDATA_ANY(b),
							   Min(VARSIZE_ANY_EXHDR(a), VARSIZE_ANY_EXHDR(b)));

	return order != 0 ? order : (int) VARSIZE_ANY_EXHDR(a) - (int) VARSIZE_ANY_EXHDR(b);
}

/* Which events a reader or a projection wants.  A count of 0 means "all". */
typedef struct EvsFilter
{
	int			ncategories;
	text	  **categories;
	int			ntypes;
	text	  **types;
	int			partitions;		/* more than 1: only the streams ... */
	int			partition;		/* ... of this one, see unit.h */
} EvsFilter;

#endif							/* EVSOURCE_H */
