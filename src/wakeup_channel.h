/*
 * wakeup_channel.h - what there is to wait for, as who waits (wakeup_wait.c) and
 * who wakes (wakeup.c) name it.
 */
#ifndef EVS_WAKEUP_CHANNEL_H
#define EVS_WAKEUP_CHANNEL_H

#include "evsource.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"

#include "lock_classes.h"

/* events, or a projection or subscription (the hash of its name) */
#define EVS_CHANNEL_EVENTS	0

/* the lock tags of who waits: for a channel, and for anything at all */
#define EVS_CHANNEL_ANY		1	/* in the tag's second field; 0: the channel in the third */

static inline uint32
evs_channel_of_projection(const char *projection)
{
	uint32		hash = DatumGetUInt32(hash_any((const unsigned char *) projection,
											   strlen(projection)));

	return hash == EVS_CHANNEL_EVENTS ? 1 : hash;
}

/* A name of its own among the channels: a subscription may be called as a projection. */
static inline uint32
evs_channel_of_subscription(const char *subscription)
{
	return hash_combine(evs_channel_of_projection(subscription), 6) | 1;
}

/* Moves when all who wait for the subscription are to know of it, not one of them. */
static inline uint32
evs_channel_of_changes(uint32 channel)
{
	return ~channel;
}

/* Who waits for a subscription, in this database: no two share a number. */
static inline uint64
evs_channel_group(const char *subscription)
{
	uint64		hash = DatumGetUInt64(hash_any_extended((const unsigned char *) subscription,
														strlen(subscription), MyDatabaseId));

	return hash == 0 ? 1 : hash;
}

/* No projection has this name. */
static inline uint32
evs_channel_of_daemon(void)
{
	return evs_channel_of_projection("");
}

static inline void
evs_channel_locktag(LOCKTAG *tag, uint32 kind, uint32 channel)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, kind, channel, EVS_LOCK_CHANNEL);
}

/*
 * The kinds of events, as those who append them and those who wait for them name
 * them: all of a category, all of a type, those of a type in a category.
 */
static inline uint32
evs_channel_category(const char *name, int length)
{
	return DatumGetUInt32(hash_any((const unsigned char *) name, length));
}

static inline uint32
evs_channel_type(const text *type)
{
	return hash_combine(DatumGetUInt32(hash_any((const unsigned char *) VARDATA_ANY(type),
												VARSIZE_ANY_EXHDR(type))), 7);
}

static inline uint32
evs_channel_category_type(uint32 category, uint32 type)
{
	return hash_combine(category, type);
}

/*
 * A set of channels and kinds in a word: two that share no bit have nothing in
 * common.  Each one has a bit, and a bit has many; the lower 48 are for kinds.
 */
#define EVS_CHANNEL_SET_ALL			(~UINT64CONST(0))
#define EVS_CHANNEL_SET_OF_EVENTS	(UINT64CONST(1) << 63)

static inline uint64
evs_channel_set_of_kind(uint32 kind)
{
	return UINT64CONST(1) << (kind >> 16) % 48;
}

static inline uint64
evs_channel_set_of(uint32 channel)
{
	return UINT64CONST(1) << (48 + (channel >> 16) % 15);
}

#endif							/* EVS_WAKEUP_CHANNEL_H */
