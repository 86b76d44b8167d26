/*
 * fold_key.h - the keys of an event, for folds that are keyed by something else
 * than the stream.
 */
#ifndef EVS_FOLD_KEY_H
#define EVS_FOLD_KEY_H

#include "evsource.h"
#include "projection.h"

#include "fmgr.h"

/* the longest key, in bytes: as for a stream's name */
#define EVS_MAX_KEY_BYTES	1024

typedef struct EvsKeyer
{
	EvsProjection *projection;
	FmgrInfo	flinfo;			/* of the key function, if there is one */
	bool		returns_array;
	MemoryContext context;		/* of one event's keys */
} EvsKeyer;

/*
 * In CurrentMemoryContext, as the projection's owner.
 *
 * Errors: 42883 when the key function is gone, 42P13 when it returns neither
 * text nor text[], 42501.
 */
extern EvsKeyer *evs_keyer_open(EvsProjection *projection);
extern void evs_keyer_close(EvsKeyer *keyer);

/*
 * The keys of an event, without nulls and each once: valid until the next call.
 * Error: 22023 when a key is empty or too long.
 */
extern int	evs_keyer_keys(EvsKeyer *keyer, const EvsEvent *event, text ***keys);

/* The one key of a fold with key 'global'. */
extern text *evs_global_key(void);

#endif							/* EVS_FOLD_KEY_H */
