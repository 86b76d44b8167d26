/*
 * projection.h - a registered projection, as the dispatcher sees it.
 */
#ifndef EVS_PROJECTION_H
#define EVS_PROJECTION_H

#include "evsource.h"

#include "nodes/pg_list.h"
#include "utils/snapshot.h"

typedef enum EvsKind
{
	EVS_KIND_EVENT,				/* f(evsource.event) returns void */
	EVS_KIND_BATCH,				/* f(evsource.event[]) returns void */
	EVS_KIND_QUERY,				/* SQL text over new_events */
	EVS_KIND_FOLD				/* f(jsonb, evsource.event) returns jsonb */
} EvsKind;

typedef enum EvsMode
{
	EVS_MODE_INLINE,
	EVS_MODE_ASYNC,
	EVS_MODE_MANUAL
} EvsMode;

typedef enum EvsProjectionState
{
	EVS_PROJECTION_ACTIVE,			/* inline: appends dispatch to it */
	EVS_PROJECTION_CATCHING_UP,		/* registered, history not yet applied */
	EVS_PROJECTION_PAUSED,			/* by pause_projection */
	EVS_PROJECTION_FAILED,			/* stopped by an error */
	EVS_PROJECTION_REBUILDING		/* a rebuild is under way */
} EvsProjectionState;

typedef enum EvsKeyKind
{
	EVS_KEY_STREAM,
	EVS_KEY_GLOBAL,
	EVS_KEY_FUNCTION
} EvsKeyKind;

typedef struct EvsSnapshotPolicy
{
	int			snapshot_every; /* events of a key; 0 = never */
	bool		snapshot_after_batch;	/* save in the appending transaction */
	bool		restore_from_snapshot;	/* load starts from a snapshot */
	int			keep_snapshots; /* versions of each; 1 = the newest only */
} EvsSnapshotPolicy;

/* A row of evsource.projections. */
typedef struct EvsProjection
{
	char	   *name;
	EvsKind		kind;
	EvsMode		mode;
	EvsProjectionState state;
	char	   *handler;		/* qualified signature, NULL for a query */
	char	   *query;			/* SQL text, NULL for a handler */
	text	  **path;			/* what a fold with a path is passed */
	int			npath;			/* 0: it takes none */
	EvsFilter	filter;
	EvsKeyKind	key_kind;
	char	   *key_function;	/* qualified signature, if EVS_KEY_FUNCTION */
	int64		start_after;	/* events at or below are not its business */
	int			state_version;
	char	   *owner;			/* role name */
	char	   *search_path;	/* what its functions run with */
	char	   *live_path;		/* and without copies of its tables; NULL: the same */
	EvsSnapshotPolicy policy;
	char	   *is_compatible;	/* qualified signatures or NULL */
	char	   *migrate_state;
	List	   *tables;			/* qualified names (char *) of its read model */
	char	   *on_reset;		/* qualified signature or NULL */
	bool		dead_letter;	/* async: park what fails instead of stopping */
	bool		notify;			/* tell listeners that the read model changed */
	bool		stale;			/* its definition changed since it was built, or it missed events */
	int			lapses;			/* how often the log has changed behind it */
	int			partitions;		/* async: workers that share it, by stream */
	int64		replay_until;	/* what it is applied up to here is history */
	int64		vouched;		/* evs_snapshot_vouch() when its state version was given */
	TransactionId changed_by;	/* who has written the row */

	/* what running it has found out; lives and dies with the struct */
	MemoryContext context;		/* holds all of the above */
	void	   *runtime;		/* handlers.c's or, of a query, new_events.c's */
	bool		replaying;		/* what is dispatched to it now is history */
	void		(*applied) (void *argument);	/* called when the handler is
												 * through with a batch, before
												 * what it appended is dispatched */
	void	   *applied_argument;
} EvsProjection;

extern void evs_projection_init(void);

/*
 * The active inline projections by name, cached until any projection changes.
 * The list stays valid until evs_projections_release(), or until the
 * (sub)transaction aborts.
 */
extern List *evs_projections_inline(void);
extern void evs_projections_release(List *projections);

/* Is that list not empty? */
extern bool evs_projections_have_inline(void);

/* By what it is keyed: 'stream', 'global', or a function. */
extern void evs_projection_set_key(EvsProjection *projection, char *key);

/* One projection, read afresh into CurrentMemoryContext; NULL or an error (42704) when unknown. */
extern EvsProjection *evs_projection_load(const char *name, bool missing_ok);

/* Is there one of this name in a snapshot? */
extern bool evs_projection_exists(const char *name, Snapshot snapshot);

#endif							/* EVS_PROJECTION_H */
