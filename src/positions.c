/*
 * positions.c - draw positions from evsource.position_seq.
 *
 * What nextval does, for many values at once, and with a look at the page for
 * free: nextval one by one is a tenth of a batch's time.  The sequence is an
 * ordinary one: what is written to it and to the WAL is what nextval writes, so
 * crash recovery, replicas, pg_dump and setval know nothing of this.
 *
 * As nextval does, the WAL is written ahead: a record says that values are drawn
 * which are not yet, and until those are used up no more records are needed.
 * After a crash the sequence goes on behind them.
 *
 * Of those that are left ahead there is always one (log_cnt), until somebody sets the
 * sequence: setval, ALTER SEQUENCE, we ourselves, recovery.  It may have been set back,
 * by a dump that is restored over a log in use, or whose log was used before it came to
 * the sequence, which is last.  So where none is left it is looked how far the log has
 * come (reached.c), and the sequence is moved there, before anybody draws or goes by it.
 *
 * A standby that is promoted, or a server that was recovered to a point in time,
 * may not have all that its predecessor had: positions that consumers have seen
 * would be drawn again, for other events.  Each such server is on a timeline of
 * its own.  evsource.timeline_seq says on which one positions were last drawn;
 * whoever finds it on another one leaves a gap first.  Two who find it at once
 * leave two.  The same is done where positions came from another server by
 * logical replication: then it is 0.
 *
 * It is negative before the first position is drawn, which opens the log, or before
 * something follows the log here: until then all that there is was restored, see
 * restore.c.
 */
#include "evsource.h"

#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/rel.h"

#include "catalog.h"
#include "event.h"
#include "positions.h"
#include "reached.h"
#include "replication.h"

/* drawn ahead in the WAL, as nextval does */
#define LOG_AHEAD 32

/* more than a predecessor can have drawn that we have not heard of */
#define TIMELINE_GAP (1 << 24)

/*
 * This session has seen that positions are drawn here, on this timeline: in the
 * log of this timeline_seq.
 */
static Oid	may_draw_in = InvalidOid;

/* This session has seen that the log of this timeline_seq is open: it is for good. */
static Oid	open_in = InvalidOid;

/* The sequence, opened, with its only row locked in its buffer. */
typedef struct Locked
{
	Relation	sequence;
	Buffer		buffer;
	HeapTupleData tuple;
	Form_pg_sequence_data data;
} Locked;

static void
lock_row(Locked *locked, Oid sequence, LOCKMODE lockmode, int buffer_lockmode)
{
	Page		page;
	ItemId		item;

	locked->sequence = relation_open(sequence, lockmode);
	locked->buffer = ReadBuffer(locked->sequence, 0);
	LockBuffer(locked->buffer, buffer_lockmode);
	page = BufferGetPage(locked->buffer);
	item = PageGetItemId(page, FirstOffsetNumber);
	Assert(ItemIdIsNormal(item));
	locked->tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
	locked->tuple.t_len = ItemIdGetLength(item);
	locked->data = (Form_pg_sequence_data) GETSTRUCT(&locked->tuple);
}

static void
unlock_row(Locked *locked, LOCKMODE lockmode)
{
	UnlockReleaseBuffer(locked->buffer);
	relation_close(locked->sequence, lockmode);
}

static int64
last_drawn(const Locked *locked)
{
	return locked->data->is_called ? locked->data->last_value : locked->data->last_value - 1;
}

/* Write the row, as it is, to the WAL. */
static void
log_row(Locked *locked)
{
	xl_seq_rec	record;
	XLogRecPtr	lsn;

	evs_seq_rec_set_relation(&record, locked->sequence);
	XLogBeginInsert();
	XLogRegisterBuffer(0, locked->buffer, REGBUF_WILL_INIT);
	XLogRegisterData((char *) &record, sizeof(record));
	XLogRegisterData((char *) locked->tuple.t_data, locked->tuple.t_len);
	lsn = XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG);
	PageSetLSN(BufferGetPage(locked->buffer), lsn);
}

/*
 * As setval does it, for whoever may append: what was drawn last is this, 0 for
 * nothing.  Unless it is more already, if it is not to go back; returns whether it was set.
 */
static bool
set_last(Oid sequence, int64 last, bool never_back)
{
	Locked		locked;
	bool		moves;

	GetTopTransactionId();
	lock_row(&locked, sequence, RowExclusiveLock, BUFFER_LOCK_EXCLUSIVE);
	moves = !never_back || last_drawn(&locked) < last;
	if (moves)
	{
		START_CRIT_SECTION();
		MarkBufferDirty(locked.buffer);
		locked.data->is_called = last > 0;
		locked.data->last_value = Max(last, 1);
		locked.data->log_cnt = 0;
		if (RelationNeedsWAL(locked.sequence))
			log_row(&locked);
		END_CRIT_SECTION();
	}
	unlock_row(&locked, NoLock);
	return moves;
}

/*
 * Lock the sequence of the positions, which is not behind the log then: see the header
 * of the file.  On a standby it is what the primary says, and nobody goes by it.
 *
 * Whoever goes on from it looks at most once: an import sets the sequence for each row, and
 * may do so faster than we look.  Whoever only asks need not look at what this session has
 * looked at before: nobody has set it since.
 */
static void
lock_positions(Locked *locked, LOCKMODE lockmode, int buffer_lockmode)
{
	static Oid	looked_in = InvalidOid;
	static XLogRecPtr looked_at = InvalidXLogRecPtr;
	Oid			sequence = evs_catalog()->position_seq;
	int64		reached = -1;

	for (;;)
	{
		XLogRecPtr	lsn;
		int64		last;

		lock_row(locked, sequence, lockmode, buffer_lockmode);
		if (locked->data->log_cnt > 0 || RecoveryInProgress())
			return;
		lsn = BufferGetLSNAtomic(locked->buffer);
		last = last_drawn(locked);
		if (reached >= 0 && last >= reached)
		{
			looked_in = sequence;
			looked_at = lsn;
			return;
		}
		if (buffer_lockmode == BUFFER_LOCK_SHARE && looked_in == sequence && looked_at == lsn)
			return;
		unlock_row(locked, lockmode);

		reached = evs_reached();
		if (last < reached && set_last(sequence, reached, true))
			ereport(LOG,
					(errmsg("evsource.position_seq was behind the log, and has been moved to its end"),
					 errdetail("It was at position %lld; the log, or somebody who follows it, is at %lld.",
							   (long long) last, (long long) reached)));
	}
}

int64
evs_positions_last(void)
{
	Locked		locked;
	int64		last;

	lock_positions(&locked, AccessShareLock, BUFFER_LOCK_SHARE);
	last = last_drawn(&locked);
	/* a background worker may sleep in this transaction, and must not lock it */
	unlock_row(&locked, AccessShareLock);
	return last;
}

static int64
draw(int64 count, void (*announce) (int64 first))
{
	Locked		locked;
	Form_pg_sequence_data data;
	int64		first;
	int64		last;
	int64		ahead;
	bool		log;

	lock_positions(&locked, RowExclusiveLock, BUFFER_LOCK_EXCLUSIVE);
	data = locked.data;
	first = last_drawn(&locked) + 1;
	last = first + count - 1;
	if (last > EVS_MAX_POSITION)
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("the log has no positions left"),
				 errdetail("The last one is %lld.", (long long) EVS_MAX_POSITION),
				 errhint("Start a new event store in another database. "
						 "If evsource.position_seq was set this far by mistake, set it to the highest position in evsource.events, "
						 "move subscriptions back to it, and rebuild the projections that were run meanwhile.")));

	/* one is left at least; also after a checkpoint: the page must not be older than its record */
	ahead = data->log_cnt - count;
	log = !data->is_called || ahead <= 0 ||
		PageGetLSN(BufferGetPage(locked.buffer)) <= GetRedoRecPtr();
	if (log)
	{
		ahead = Min(LOG_AHEAD, EVS_MAX_POSITION - last);
		/* so that the record is flushed when we commit */
		if (RelationNeedsWAL(locked.sequence))
			GetTopTransactionId();
	}

	if (announce)
		announce(first);

	START_CRIT_SECTION();
	MarkBufferDirty(locked.buffer);
	data->is_called = true;
	if (log && RelationNeedsWAL(locked.sequence))
	{
		data->last_value = last + ahead;
		data->log_cnt = 0;
		log_row(&locked);
	}
	data->last_value = last;
	/* the transaction that makes the sequence may write no record: the next one has none to go by */
	data->log_cnt = RelationNeedsWAL(locked.sequence) ? ahead : 0;
	END_CRIT_SECTION();

	unlock_row(&locked, NoLock);
	return first;
}

/* Negative: no position was drawn in this log; 0: elsewhere. */
static int64
last_timeline(void)
{
	Locked		locked;
	int64		timeline;

	lock_row(&locked, evs_catalog()->timeline_seq, AccessShareLock, BUFFER_LOCK_SHARE);
	timeline = last_drawn(&locked);
	unlock_row(&locked, NoLock);
	return timeline;
}

void
evs_positions_pass(int64 position)
{
	(void) set_last(evs_catalog()->position_seq, position, true);
}

void
evs_positions_come_from_elsewhere(int64 position)
{
	evs_positions_pass(position);
	if (last_timeline() != 0)
		(void) set_last(evs_catalog()->timeline_seq, 0, false);
}

bool
evs_positions_are_drawn_here(void)
{
	return last_timeline() > 0;
}

void
evs_positions_are_restored(int64 last)
{
	(void) set_last(evs_catalog()->restored_seq, last, true);
}

int64
evs_positions_restored(bool *awaits_store)
{
	Locked		locked;
	int64		last;

	lock_row(&locked, evs_catalog()->restored_seq, AccessShareLock, BUFFER_LOCK_SHARE);
	last = locked.data->last_value;
	*awaits_store = locked.data->is_called;
	unlock_row(&locked, AccessShareLock);
	return last;
}

void
evs_positions_ask_again(void)
{
	may_draw_in = InvalidOid;
}

bool
evs_positions_log_is_open(void)
{
	if (open_in != evs_catalog()->timeline_seq && last_timeline() >= 0)
		open_in = evs_catalog()->timeline_seq;
	return open_in == evs_catalog()->timeline_seq;
}

void
evs_positions_open_log(void)
{
	int64		timeline = last_timeline();

	if (timeline >= 0)
		return;
	(void) set_last(evs_catalog()->timeline_seq, -timeline, false);
	/* whoever goes on from what we tell must find it open after a crash, too */
	XLogFlush(XactLastRecEnd);
}

/* The gap comes first: who finds the timeline set may rely on it. */
static void
follow_timeline(void)
{
	int64		timeline = GetWALInsertionTimeLine();
	int64		last = last_timeline();

	if (last == timeline)
		return;
	if (last != -timeline)
		(void) draw(TIMELINE_GAP, NULL);
	(void) set_last(evs_catalog()->timeline_seq, timeline, false);
	if (last != -timeline)
		ereport(LOG,
				(errmsg("evsource leaves a gap in its positions"),
				 errdetail("The log continues here, on timeline %lld.", (long long) timeline)));
}

void
evs_positions_follow_timeline(void)
{
	if (may_draw_in == evs_catalog()->timeline_seq)
		return;
	evs_replication_refuse("append");
	follow_timeline();
	may_draw_in = evs_catalog()->timeline_seq;
}

int64
evs_positions_draw(int count, void (*announce) (int64 first))
{
	evs_positions_follow_timeline();
	return draw(count, announce);
}
