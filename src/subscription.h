/*
 * subscription.h - durable cursors over the log for consumers outside.
 *
 * A subscription's streams are split by hash into partitions; each has a cursor,
 * a row of evsource.cursors.  One batch of a partition is out at a time:
 * fetch_events() claims the cursor (fetch.c, cursor.c), ack() and nack() let it
 * go (receipt.c), and a lease that runs out does.
 */
#ifndef EVS_SUBSCRIPTION_H
#define EVS_SUBSCRIPTION_H

#include "evsource.h"

#include "fmgr.h"

#define EVS_MAX_SUBSCRIPTION_NAME	200		/* and of a consumer's */
#define EVS_MAX_SUBSCRIPTION_PARTITIONS	1024

/* A cursor, as who looks for work sees it: it may be another's by now. */
typedef struct EvsCursor
{
	int			generation;		/* of the partitions: the oldest is drained first */
	int			partition;		/* 0, 1, ... */
	int64		position;		/* everything up to here is done */
	int64		end;			/* nothing after this is its own */
	int64		out;			/* the last event that is out, or was when a lease ran out; 0: none */
	bool		is_free;		/* nobody has it, nothing is to be waited for */
	TimestampTz free_at;		/* when that will be so at the latest; 0: no time is known */
} EvsCursor;

/* A subscription as it is now, and the cursors that there is work for. */
typedef struct EvsSubscription
{
	char	   *name;
	char	   *owner;
	EvsFilter	filter;			/* its categories and types */
	int			max_attempts;	/* 0: no limit */
	int			definition;		/* number of the definition: claims compare it */
	bool		has_retries;	/* dead letters that are to be tried again */
	int			partitions;		/* of the generation that is worked on */
	int			ncursors;		/* fewer than partitions when some are drained */
	EvsCursor  *cursors;
} EvsSubscription;

/* ---- subscription.c ---- */

/*
 * The argument as a name: 22004 when null, 22023 when empty or too long.  The name of
 * a consumer may be NULL.
 */
extern char *evs_subscription_name(FunctionCallInfo fcinfo, int argument);
extern char *evs_consumer_name(FunctionCallInfo fcinfo, int argument);

/*
 * The subscription and its cursors in CurrentMemoryContext, with a snapshot that
 * is taken now.  A cursor that this consumer (NULL: nobody) has is free to it.
 * Errors: 42704 unknown, 42501 for who has not the rights of its owner.
 */
extern EvsSubscription *evs_subscription_load(const char *name, const char *consumer);

/*
 * What evsource itself does not write, but somebody by hand: a cursor that is not of one of
 * so many partitions, as the others of its generation; a generation after one that has no
 * end; one without an end that has fewer cursors than partitions; no cursors at all.  In
 * words, for a detail; the first and the third are NULL when there is no such thing.
 */
extern const char *evs_cursor_problem(int partition, int partitions, int expected);
extern const char *evs_generation_problem(int generation, int older);
extern const char *evs_missing_cursors_problem(int cursors, int partitions, bool has_end);
extern const char *evs_no_cursors_problem(void);

/* 42501 unless the current user has the rights of the owner. */
extern void evs_subscription_check_rights(const char *name, const char *owner);
extern void evs_subscription_unknown(const char *name);

/* ---- subscription_lock.c ---- */

/*
 * Lock the subscription and its cursors until the end of the transaction.  Returns false
 * if there is none and that is allowed.  Errors: 42704, 42501, 55P03 when consumers have
 * them for too long.
 */
extern bool evs_subscription_open_for_change(const char *name, bool missing_ok);

/* ---- subscription.c ---- */

/* Milliseconds of an interval, at least 0: 22023; name is the parameter. */
extern int64 evs_interval_milliseconds(Interval *interval, const char *name);

/* ---- cursor.c ---- */

/* A cursor that we have: its row is locked until the end of the transaction. */
typedef struct EvsClaim
{
	const EvsSubscription *subscription;
	int			generation;
	int			partition;
	int64		position;
	int64		end;
	int64		suspect_from;	/* events from here ... */
	int64		suspect_until;	/* ... to here go out alone; 0: none */
	int			attempts;		/* how often the one at suspect_from went out in vain */
	int64		been_out;		/* events up to here have been handed out before */
	TimestampTz retry_at;		/* nothing goes out before; 0: at once */
	int64		token;			/* of the receipts to come */
} EvsClaim;

/*
 * Take the cursor if it is still free and the definition still the same; what
 * was out before has failed and is counted.  False: look again.
 */
extern bool evs_cursor_claim(const EvsSubscription *subscription, const EvsCursor *cursor,
							 const char *consumer, EvsClaim *claim);

/*
 * Move on a cursor that has nothing up to a position, which is before what is out from
 * it or was: that stays as it is, to be acknowledged.  False as above.
 */
extern bool evs_cursor_skip(const EvsSubscription *subscription, const EvsCursor *cursor,
							const char *consumer, int64 position);

/* What is handed out next begins with this event. */
extern void evs_cursor_begin(EvsClaim *claim, int64 position);

/*
 * The next event cannot be handed out.  True: that was its last attempt, it is a
 * dead letter now; else the cursor is to be left for a while.
 */
extern bool evs_cursor_fail(EvsClaim *claim, int64 position, const char *reason);

/* What goes out with a claim. */
typedef struct EvsHandOut
{
	int64		last;			/* the last event's position */
	int64		seen;			/* and how far has been looked */
	bool		alone;			/* it is one event */
	bool		retry;			/* and a dead letter that is tried again */
} EvsHandOut;

extern void evs_cursor_hand_out(const EvsClaim *claim, const EvsHandOut *out,
								const char *consumer, int64 lease_ms);

/* There is nothing up to this position: so the cursor may go there. */
extern void evs_cursor_advance(const EvsClaim *claim, int64 position);

/* ---- receipt.c ---- */

/* What stands in all receipts of a claim, before and after the position. */
typedef struct EvsReceipts
{
	char	   *prefix;
	char	   *suffix;
	int			prefix_length;
	int			suffix_length;
} EvsReceipts;

extern void evs_receipts_begin(EvsReceipts *receipts, const EvsClaim *claim, bool retry);

/* How long one can get, and the one for a position: returns its length. */
extern int	evs_receipt_max_length(const EvsReceipts *receipts);
extern int	evs_receipt_write(const EvsReceipts *receipts, int64 position, char *to);

/* ---- subscription_letters.c ---- */

/* A dead letter that is to be tried again. */
typedef struct EvsLetter
{
	int64		position;
	int			attempts;		/* that it has had */
	int			partition;		/* of its stream */
} EvsLetter;

/* An event at which the last attempt failed. */
extern void evs_subscription_bury(const char *subscription, int64 position, int attempts,
								  const char *reason);

extern void evs_subscription_park_behind(const char *subscription, const EvsEvent *event);

/*
 * The streams that have dead letters, or NULL when there are none; asked with the
 * cursor claimed, so that none of its streams is missed, and valid for as long as
 * it is.  They live in CurrentMemoryContext, the name must live as long.
 */
typedef struct EvsDeadStreams EvsDeadStreams;

extern EvsDeadStreams *evs_dead_streams(const char *subscription);
extern bool evs_dead_streams_have(EvsDeadStreams *streams, text *stream);

/* It is done, or its event is gone. */
extern void evs_subscription_forget_letter(const char *subscription, int64 position);

/*
 * The first one that is to be tried again, of each partition up to a position;
 * false when there is none.
 */
extern bool evs_subscription_find_retry(const EvsSubscription *subscription, const int64 *upto,
										EvsLetter *letter);

/* It failed again: it and those of its stream wait for the next retry. */
extern void evs_subscription_retry_failed(const char *subscription, int64 position,
										  const char *reason);

/* ---- subscription_truncate.c ---- */

/*
 * The events of a stream before this version are to go, the last of them at this
 * position: 55000 when a subscription wants some that its consumers have not
 * acknowledged; with force, a warning.
 */
extern void evs_subscriptions_check_truncation(text *stream, int64 before, int64 position,
											   bool force);

/*
 * They are gone, and so are their letters.  One that a consumer has locked is passed
 * over, rather than waited for: should it remain, it is found to have no event when
 * its turn comes.
 */
extern void evs_subscriptions_truncated(text *stream, int64 before);

#endif							/* EVS_SUBSCRIPTION_H */
