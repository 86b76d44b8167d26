/*
 * capture.h - the rows of a captured table as events.
 */
#ifndef EVS_CAPTURE_H
#define EVS_CAPTURE_H

#include "evsource.h"

#include "capture_json.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"

/* What the arguments of a trigger say (capture_definition.c). */
typedef struct EvsCaptureDefinition
{
	const char *category;
	List	   *key;			/* names of columns, at least one */
	List	   *exclude;		/* names of columns */
	const char *as;				/* the role to append; NULL: the table's owner */
} EvsCaptureDefinition;

/* Are these the trigger's arguments? */
extern bool evs_capture_has_arguments(const Trigger *trigger, char *const *arguments, int count);

/* Words among the arguments, which are no names of columns. */
#define EVS_CAPTURE_EXCLUDE	"--exclude"
#define EVS_CAPTURE_AS		"--as"

/* Errors: 22023 when they are not what evsource.capture takes. */
extern void evs_capture_parse(char *const *arguments, int count,
							  EvsCaptureDefinition *definition);

/*
 * Who has registered the capture of a table, or of one that it is a partition of, by
 * a trigger with these arguments (capture_registry.c).  InvalidOid: nobody has, or it
 * is a role that was not there when a dump was restored.
 */
extern Oid	evs_capture_registered(Oid relid, char *const *arguments, int count);

/* The caller has checked that who asks for it can act as that role. */
extern void evs_capture_register(Oid relid, char *const *arguments, int count, Oid registrant);

/* Forget a table's captures; those of what was dropped, in an event trigger. */
extern void evs_capture_unregister(Oid relid);
extern void evs_capture_forget_dropped(void);

/* 40001 where the transaction's snapshot does not show the table's records as they are. */
extern void evs_capture_require_seen(Oid relid);

/* 22023 unless it can be the category of captured rows. */
extern void evs_capture_check_category(const char *category);

/* How one column of a captured table is written. */
typedef struct EvsCaptureColumn
{
	AttrNumber	number;
	const char *name;
	int			name_length;
	EvsJsonForm *form;
	int16		typlen;
	bool		typbyval;
} EvsCaptureColumn;

/* How a table's rows become events, prepared (capture_plan.c). */
typedef struct EvsCapturePlan
{
	MemoryContext context;
	Oid			relid;
	bool		is_heap;		/* its rows know their commands */
	const char *category;
	Oid			registrant;		/* who appends; of a trigger's plan only */
	text	   *inserted;		/* types of events */
	text	   *updated;
	text	   *deleted;
	text	   *truncated;
	int			nkeys;
	int		   *keys;			/* indexes of columns */
	bool		repeats_keys;	/* rows of this table may have the same key */
	bool		shares_streams; /* so may those of all partitions; of a trigger's plan only */
	int			ncolumns;
	EvsCaptureColumn *columns;	/* those that are captured, and the key */
} EvsCapturePlan;

/*
 * The plan of a trigger that fires, kept for the session.  Valid until the end of
 * the transaction.  Errors: 22023, and 42703 when a column is gone that is of the key
 * or excluded.
 */
extern EvsCapturePlan *evs_capture_plan(const TriggerData *trigger);

/* A plan of the caller's own, in a new context under CurrentMemoryContext. */
extern EvsCapturePlan *evs_capture_make_plan(Relation table,
											 const EvsCaptureDefinition *definition);

/* 42703 unless each of the names is that of a column. */
extern void evs_capture_check_excluded(Relation table, List *exclude);

/*
 * Errors: 42501 when nobody has registered the trigger, 42704 when the role that
 * appends is gone.
 */
extern void evs_capture_check_registrant(const EvsCapturePlan *plan, const TriggerData *trigger);

extern void evs_capture_plan_init(void);

/*
 * Rows as events (capture_row.c): stream, type and data, in CurrentMemoryContext
 * or in the slots.  An update gives no event, one, or, when the key changed, two:
 * the row leaves one stream and comes to another.
 */
extern void evs_capture_inserted(EvsCapturePlan *plan, TupleTableSlot *row, EvsEvent *event);
extern void evs_capture_deleted(EvsCapturePlan *plan, TupleTableSlot *row, EvsEvent *event);
extern int	evs_capture_updated(EvsCapturePlan *plan, TupleTableSlot *old_row,
								TupleTableSlot *new_row, EvsEvent *events);
extern void evs_capture_truncated(EvsCapturePlan *plan, Relation table, EvsEvent *event);
extern text *evs_capture_stream(EvsCapturePlan *plan, TupleTableSlot *row);

/* The steps of one command: what leaves a stream does so before others come. */
typedef enum EvsCapturePhase
{
	EVS_CAPTURE_LEAVES,
	EVS_CAPTURE_STAYS,
	EVS_CAPTURE_COMES
} EvsCapturePhase;

/*
 * A version of a row: where it is, and the command of this transaction that put it there.
 * InvalidCommandId: there is none, another transaction has made it, or nobody knows.
 */
typedef struct EvsRowVersion
{
	CommandId	made_by;
	ItemPointerData tid;
} EvsRowVersion;

/* COPY FREEZE: once the row is changed, it does not tell by which command it came. */
#define EVS_FROZEN_COMMAND	(InvalidCommandId - 1)

/* What a command did to a row: the version that it found in a stream, and that it left there. */
typedef struct EvsCaptureStep
{
	EvsCapturePhase phase;
	CommandId	command;
	EvsRowVersion found;
	EvsRowVersion left;
} EvsCaptureStep;

#define EVS_NO_ROW_VERSION	((EvsRowVersion) {InvalidCommandId})

/*
 * Append the event, copied, when the statement that is under way ends, in the
 * order of commands and phases (capture_pending.c).
 */
extern void evs_capture_add(const EvsCapturePlan *plan, const EvsCaptureStep *step,
							const EvsEvent *event);

/* The same of rows that leave now, by TRUNCATE. */
extern void evs_capture_add_truncated(const EvsCapturePlan *plan, const EvsEvent *event);

/*
 * An update that is no event.  What is done to the row afterwards is done to the version
 * that this one left.
 */
extern void evs_capture_unchanged(EvsCapturePlan *plan, const EvsCaptureStep *step,
								  TupleTableSlot *row);

/* Call when the changes of one row have been added. */
extern void evs_capture_added(void);

/*
 * Around the triggers of a statement that the executor does not fire: between
 * the first call and one of the others, changes are collected.
 */
extern void evs_capture_statement_begins(void);
extern void evs_capture_statement_ends(void);
extern void evs_capture_statement_fails(void);

/*
 * In a trigger BEFORE a statement: it counts as running from here on, if the library
 * came too late to see it begin.
 */
extern void evs_capture_statement_unseen(void);

extern void evs_capture_pending_init(void);

/*
 * TRUNCATE of a table that is captured by itself is under way: what it does to its
 * partitions is not captured (capture_truncate.c).
 */
extern void evs_capture_truncate_begins(const TriggerData *trigger);
extern void evs_capture_truncate_ends(Relation table);
extern void evs_capture_truncate_init(void);

/*
 * Let TRUNCATE of the table's partitions be captured, or of itself if it is one; undo
 * that where the table is not captured any more.
 */
extern void evs_capture_watch_partitions(Oid relid);
extern void evs_capture_leave_partitions(Oid relid);

/*
 * Call the function for each row that the table, no partitioned one, has now, in a
 * memory context that is reset after each (capture_walk.c).
 */
typedef void (*EvsCaptureVisit) (TupleTableSlot *row, void *argument);

extern void evs_capture_each_row(Relation table, EvsCaptureVisit visit, void *argument);

/*
 * Say when a trigger of a capture fires, by one of TRIGGER_FIRES_..., whoever owns the
 * table (capture_fires.c).
 */
extern void evs_capture_set_state(Relation table, const char *trigger, char state);

/*
 * Let those add partitions who own a captured table or partitions of it that have
 * partitions themselves; InvalidOid: any such table (capture_owners.c).
 */
extern void evs_capture_let_owners_add_partitions(Oid relid);
extern void evs_capture_owners_reassigned(void);

/*
 * Lock the category of a table that is to be captured until the end of the transaction
 * (capture_category.c).  Errors: 42710 when it is not the table's alone, a NOTICE if it
 * was named.  It is the table's own already if it was captured into it until now.
 * Returns whether no other table is captured into it.
 */
extern bool evs_capture_claim_category(Relation table, const EvsCapturePlan *plan,
									   bool is_named, bool is_own);

/*
 * Write an event for each row of a table that is locked (capture_backfill.c): after
 * a truncate, if the events that the category has are the table's.
 */
extern int64 evs_capture_backfill(Relation table, const EvsCaptureDefinition *definition,
								  bool has_category);

#endif							/* EVS_CAPTURE_H */
